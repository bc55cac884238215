"""What several processes tell each other, of any size."""

import subprocess
import sys

from recalign.engine import processes
from tests.survival.running import free_port

TOGETHER = """
import sys
from recalign.engine import processes
address, index = sys.argv[1], int(sys.argv[2])
processes.join(address, 2, index)
processes.PIECE = 100
for sizes in ((3, 0), (250, 1000), (100, 200), (0, 0)):
    made = [bytes((7 * place + size) % 256 for place in range(size)) for size in sizes]
    assert processes.exchange(made[index]) == made, sizes
print("all had the same")
"""


def test_one_process_has_what_it_made():
    assert processes.exchange(b"alone") == [b"alone"]


def test_every_process_is_told_what_all_have_made():
    address = f"127.0.0.1:{free_port()}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, address, str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    for process in both:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert "all had the same" in said
