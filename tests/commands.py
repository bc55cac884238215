"""Commands of recalign, run within the process of a test."""

from click.testing import CliRunner

from recalign.cli import recalign

# A network that is computed fast, and learns little. Where lengths are the same too, all trainings
# of it share what is compiled.
SMALL_NETWORK = (
    "--gin.BATCH_SIZE=4",
    "--gin.T5Config.emb_dim=16",
    "--gin.T5Config.num_heads=1",
    "--gin.T5Config.head_dim=8",
    "--gin.T5Config.mlp_dim=16",
    "--gin.T5Config.num_encoder_layers=1",
    "--gin.T5Config.num_decoder_layers=1",
    "--gin.Inference.length_multiple=256",  # questions of one shape
)


def run(*arguments) -> str:
    """What a command prints; one that fails raises what it raised."""
    result = CliRunner().invoke(recalign, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout
