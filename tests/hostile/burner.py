"""Takes a share of one core and does nothing with it: `python burner.py SHARE`, until it is killed."""

import sys
import time

NAP = 0.001  # seconds between looks while it has had its share


def burn(share: float) -> None:
    """Spins for as long as it has had less than its share."""
    began = time.monotonic() - time.process_time()
    while True:
        if time.process_time() < share * (time.monotonic() - began):
            continue
        time.sleep(NAP)


if __name__ == "__main__":
    burn(float(sys.argv[1]))
