#!/usr/bin/env python3
"""Designs the low-pass prototypes of the live resampler, or checks that the files hold what the design gives.

    pip install numpy scipy
    python3 crates/media/filters/design.py          # write fir-16000.txt, fir-24000.txt, fir-48000.txt
    python3 crates/media/filters/design.py --check  # compare, to 1e-7 of the largest tap

An equiripple linear-phase filter (Parks-McClellan) gives the magnitude; the minimum-phase filter of the same length has
nearly that magnitude, and its energy as early as possible (cepstral method: Oppenheim and Schafer, Discrete-Time Signal
Processing, chapter 13).
"""

import pathlib
import sys

import numpy
from scipy import signal

PASS_HZ, STOP_HZ = 3600, 4100
RIPPLE_DB, STOP_DB = 0.05, 80.0
TAPS_PER_PHASE, LOW_HZ = 58, 8000


def design(rate):
    taps = TAPS_PER_PHASE * rate // LOW_HZ
    swing = 10 ** (RIPPLE_DB / 20)
    weight = (swing - 1) / (swing + 1) / 10 ** (-STOP_DB / 20)
    linear = signal.remez(
        taps, [0, PASS_HZ, STOP_HZ, rate / 2], [1, 0], weight=[1, weight], fs=rate, grid_density=32, maxiter=500
    )
    minimum = signal.minimum_phase(linear, method="homomorphic", n_fft=65536, half=False)
    # `half` would take the root of the magnitude, for half the length.
    return minimum[:taps] / minimum[:taps].sum()


def main():
    folder = pathlib.Path(__file__).parent
    wrong = False
    for rate in (16000, 24000, 48000):
        taps = design(rate)
        file = folder / f"fir-{rate}.txt"
        if "--check" in sys.argv:
            held = numpy.loadtxt(file)
            error = abs(held - taps).max() / abs(taps).max()
            wrong |= bool(error > 1e-7)
            print(f"{file.name}: {len(taps)} taps, largest difference {error:.1e}")
        else:
            head = f"# minimum-phase low-pass at {rate} Hz: pass {PASS_HZ} Hz, stop {STOP_HZ} Hz, {len(taps)} taps, sum 1"
            file.write_text("\n".join([head, *(f"{it:.9e}" for it in taps)]) + "\n")
            gain = 20 * numpy.log10(abs(numpy.fft.rfft(taps, 1 << 16)))
            hz = numpy.fft.rfftfreq(1 << 16, 1 / rate)
            low, high = gain[hz <= PASS_HZ], gain[hz >= STOP_HZ]
            print(f"{file.name}: {len(taps)} taps, ripple {low.max() - low.min():.3f} dB, stop {high.max():.1f} dB")
    sys.exit(wrong)


main()
