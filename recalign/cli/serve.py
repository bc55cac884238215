"""`recalign serve`: a local page to try a run on."""

import click

from recalign.cli.options import data_dir_option, run_options, task_option
from recalign.errors import UserError


@click.command(epilog="\b\nExample:\n  recalign serve --model_dir runs/toyshop")
@run_options
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535))
@task_option
@data_dir_option
def serve(load_run, host: str, port: int, task: str | None) -> None:
    """Serves a page: search the catalogue, click a history together, see what is recommended.

    Programs may ask as the page does: /api/openapi.json says how; /metrics is for Prometheus. There
    is no log-in: whoever can reach the address can ask, by default this machine alone.
    """
    try:
        from recalign.serving import server
    except ModuleNotFoundError as error:
        raise UserError(
            f"`recalign serve` needs {error.name}: pip install 'recalign[serve]'"
        ) from error

    from recalign.runs.added_items import with_added_items
    from recalign.serving.app import Limits
    from recalign.serving.recommender import of_run

    with server.listen(host, port) as bound:
        recommender = of_run(with_added_items(load_run()), task=task)
        web = server.make_server(recommender, host, Limits())
        bound.listen()  # from here on nobody is refused, be it a moment before the server runs
        address = f"[{host}]" if ":" in host else host
        click.echo(f"{recommender.domain.name}: http://{address}:{bound.getsockname()[1]}")
        if not server.is_loopback(host):
            click.echo("Others can reach this address, and there is no log-in.", err=True)
        web.run(sockets=[bound])
