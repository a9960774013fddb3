"""What the checks share: commands in the lab, and lines "ok: ..." or "FAILED: ..." that suites/run counts."""
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAB = str(HERE.parent / "lab")
SETTINGS = dict(line.split("=", 1) for line in subprocess.run([LAB, "env"], check=True, capture_output=True, text=True).stdout.splitlines())
NODES = range(1, int(SETTINGS["LAB_NODES"]) + 1)

failures = 0


def say(good, what, why=""):
    """Prints a result; `why` only where it is bad."""
    global failures
    failures += not good
    print(f"ok: {what}" if good else f"FAILED: {what}: {why}", flush=True)


def end():
    sys.exit(1 if failures else 0)


def run(*command, check=True, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def on(node, *command, **options):
    """Runs a command in a node; 0 is the control plane."""
    return run(LAB, "on", node, *command, **options)


def kubectl(*arguments, **options):
    return run(LAB, "kubectl", *arguments, **options)


def get(*arguments):
    """Objects by kubectl."""
    return json.loads(kubectl("get", *arguments, "-o", "json"))


def poll(seconds, condition):
    """Waits until the condition holds; returns whether it does."""
    until = time.monotonic() + seconds
    while True:
        if condition():
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.3)
