import subprocess
import sys

SCRIPT = """
import threading, torch
from skyfall_ns.geo.waiting_policy import shorten_busy_waiting
shorten_busy_waiting()
shorten_busy_waiting()
names = [thread.name for thread in threading.enumerate()]
print(names.count("openmp-waiting-policy"), torch.ones(1_000_000).sum().item())
"""


def test_one_sleeping_pool_is_opened_and_the_process_ends():
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == ["1", "1000000.0"]
