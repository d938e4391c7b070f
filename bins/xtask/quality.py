"""What rate conversion does to speech, judged by PESQ (ITU-T P.862.1 and P.862.2) and STOI.

Run by `cargo xtask bench quality`, which sets up the packages: quality.py OFFHOOK WORK DOCS.
Speech is synthesised by espeak-ng, fourteen talkers in seven languages. Every method converts in pieces of 20 ms and in one
state, as a call does. The reference of each judgement is an ideal conversion: a linear-phase filter of 110 dB from 3.8 to
4.0 kHz, far too slow for a call.
"""

import pathlib
import subprocess
import sys

import numpy
import soxr
from pesq import pesq
from pystoi import stoi
from scipy import signal

OFFHOOK, WORK, DOCS = (pathlib.Path(it) for it in sys.argv[1:4])
HIGH, LOW, PIECE_MS = 24000, 8000, 20

TEXTS = {
    "en-us": "Good morning, this is the front desk. The table by the window is free at half past seven.",
    "en-gb": "She sells sixty fresh fish dishes every Thursday. Could you spell your surname for me, please?",
    "ro": "Bună ziua, restaurantul este deschis în fiecare zi. Doriți să rezervați o masă pentru două persoane?",
    "de": "Guten Tag, wir haben heute bis zwanzig Uhr geöffnet. Darf ich Ihnen einen Tisch reservieren?",
    "fr": "Bonjour, la réservation est confirmée pour vendredi soir. Souhaitez-vous autre chose aujourd'hui?",
    "es": "Buenas tardes, su mesa está lista a las ocho. Muchas gracias por llamar y hasta pronto.",
    "it": "Buongiorno, il tavolo vicino alla finestra è libero. Posso avere il suo numero di telefono?",
}
TALKERS = [(voice, variant) for voice in TEXTS for variant in ("m3", "f2")]

# The ideal filter, at 24 kHz.
IDEAL = signal.firwin(2 * 2000 + 1, 3900, width=200, fs=HIGH, window=("kaiser", signal.kaiser_beta(110)))


def pcm(samples):
    return numpy.clip(numpy.round(samples), -32768, 32767).astype("<i2")


def speech(voice, variant):
    """24 kHz, at -26 dBFS while somebody speaks."""
    file = WORK / f"{voice}-{variant}.wav"
    command = ["espeak-ng", "-v", f"{voice}+{variant}", "-s", "160", "-w", file, TEXTS[voice]]
    subprocess.run(command, check=True)
    samples = numpy.frombuffer(file.read_bytes()[44:], "<i2").astype(float)
    samples = signal.resample_poly(samples, 160, 147)
    frames = samples[: len(samples) // 480 * 480].reshape(-1, 480)
    power = (frames**2).mean(axis=1)
    active = power[power > power.max() / 1000].mean()
    return pcm(samples * 32768 * 10 ** (-26 / 20) / numpy.sqrt(active))


def centred(samples):
    return signal.fftconvolve(samples, IDEAL, "same")


def ideal_down(samples):
    return pcm(centred(samples.astype(float))[::3])


def ideal_up(samples):
    stuffed = numpy.zeros(len(samples) * 3)
    stuffed[::3] = samples * 3.0
    return pcm(centred(stuffed))


def pieces(samples, rate):
    step = rate * PIECE_MS // 1000
    return [samples[it : it + step] for it in range(0, len(samples), step)]


def offhook(samples, rate, to):
    command = [OFFHOOK, "convert", "--from", "pcm16", "--from-rate", str(rate), "--to", "pcm16", "--rate", str(to)]
    run = subprocess.run([*command, "--chunk-ms", str(PIECE_MS)], input=samples.tobytes(), capture_output=True, check=True)
    # Measured inside the project to hold nothing back, from the first piece on (`cargo bench --bench converters`).
    return numpy.frombuffer(run.stdout, "<i2"), 0.0


def streamed(samples, rate, to, convert):
    """Runs `convert(piece, last)`; returns the output and the most that was held back, in ms."""
    out, held, fed, given = [], 0.0, 0, 0
    all_pieces = pieces(samples, rate)
    for index, piece in enumerate(all_pieces):
        made = convert(piece, index + 1 == len(all_pieces))
        out.append(made)
        fed, given = fed + len(piece), given + len(made)
        if 10 <= index < len(all_pieces) - 1:
            held = max(held, 1000 * (fed / rate - given / to))
    return numpy.concatenate(out), held


def soxr_with(quality):
    def run(samples, rate, to):
        stream = soxr.ResampleStream(rate, to, 1, dtype="int16", quality=quality)
        return streamed(samples, rate, to, lambda piece, last: stream.resample_chunk(piece, last=last))

    return run


def linear(samples, rate, to):
    places = numpy.arange(0, len(samples), rate / to)
    return pcm(numpy.interp(places, numpy.arange(len(samples)), samples.astype(float))), 0.0


def per_piece(samples, rate, to):
    """A polyphase filter that forgets everything between pieces, as many home-made bridges do."""
    up, down = (3, 1) if to > rate else (1, 3)
    return streamed(samples, rate, to, lambda piece, _: pcm(signal.resample_poly(piece.astype(float), up, down)))


METHODS = {
    "offhook": offhook,
    "soxr VHQ, streamed": soxr_with("VHQ"),
    "soxr LQ, streamed": soxr_with("LQ"),
    "polyphase per piece": per_piece,
    "linear interpolation": linear,
}


def aligned(output, reference, rate):
    """Removes the delay; returns both and the delay in ms."""
    spectrum = numpy.fft.rfft(output, 1 << 20) * numpy.conj(numpy.fft.rfft(reference, 1 << 20))
    # Finer than a sample: the delay of a filter is not a whole number of them.
    correlation = numpy.fft.irfft(spectrum)
    lag = int(numpy.argmax(correlation[: rate // 2]))
    left, middle, right = correlation[lag - 1], correlation[lag], correlation[lag + 1]
    fine = lag + 0.5 * (left - right) / (left - 2 * middle + right)
    output = output[lag:]
    length = min(len(output), len(reference))
    return output[:length], reference[:length], max(0.0, 1000 * fine / rate)


def judged(method, low, high):
    up, up_held = method(low, LOW, HIGH)
    up, up_reference, up_delay = aligned(up, ideal_up(low), HIGH)
    wide = [pcm(signal.resample_poly(it.astype(float), 2, 3)) for it in (up_reference, up)]
    down, down_held = method(high, HIGH, LOW)
    down, down_reference, down_delay = aligned(down, ideal_down(high), LOW)
    return {
        "up": pesq(16000, wide[0], wide[1], "wb"),
        "up_stoi": stoi(wide[0].astype(float), wide[1].astype(float), 16000),
        "up_ms": up_delay + up_held,
        "down": pesq(LOW, down_reference, down, "nb"),
        "down_stoi": stoi(down_reference.astype(float), down.astype(float), LOW),
        "down_ms": down_delay + down_held,
    }


def picture(results):
    """Bars in both directions; colours follow the reader's theme."""
    width, bar, gap, left = 900, 22, 14, 210
    scale = (width - left - 220) / 4.7
    lines, y = [], 40
    for title, key, ms in (
        ("Telephone to assistant, 8 → 24 kHz: PESQ, wide band", "up", "up_ms"),
        ("Assistant to telephone, 24 → 8 kHz: PESQ, narrow band", "down", "down_ms"),
    ):
        lines.append(f'<text x="16" y="{y}" class="title">{title}</text>')
        y += 18
        for name, rows in results.items():
            mean = numpy.mean([it[key] for it in rows])
            late = numpy.mean([it[ms] for it in rows])
            kind = "ours" if name == "offhook" else "other"
            lines.append(f'<text x="{left - 12}" y="{y + 16}" text-anchor="end">{name}</text>')
            lines.append(f'<rect x="{left}" y="{y}" width="{mean * scale:.0f}" height="{bar}" rx="3" class="{kind}"/>')
            told = f"{mean:.2f}, {late:.1f} ms late"
            lines.append(f'<text x="{left + mean * scale + 10:.0f}" y="{y + 16}">{told}</text>')
            y += bar + gap
        y += 30
    style = (
        "text{font:14px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.ours{fill:#0a7f5a}.other{fill:#9aa4af}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ours{fill:#2fbf8f}.other{fill:#57606a}}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y - 24}" role="img" aria-label="Speech quality and delay of rate converters">'
    return "\n".join([head, f"<style>{style}</style>", *lines, "</svg>", ""])


def main():
    results = {name: [] for name in METHODS}
    for index, (voice, variant) in enumerate(TALKERS):
        print(f"{index + 1} of {len(TALKERS)}: {voice}, {variant}", flush=True)
        high = speech(voice, variant)
        low = ideal_down(high)
        for name, method in METHODS.items():
            results[name].append(judged(method, low, high))

    def of(name, key, how):
        return how([it[key] for it in results[name]])

    rows = []
    for name in METHODS:
        up = f"{of(name, 'up', numpy.mean):.2f} / {of(name, 'up', min):.2f} | {of(name, 'up_stoi', min):.3f} | {of(name, 'up_ms', numpy.mean):.1f} ms"
        down = f"{of(name, 'down', numpy.mean):.2f} / {of(name, 'down', min):.2f} | {of(name, 'down_stoi', min):.3f} | {of(name, 'down_ms', numpy.mean):.1f} ms"
        rows.append(f"| {name} | {up} | {down} |")
    text = f"""# Speech quality of rate conversion

Written by `cargo xtask bench quality`: {len(TALKERS)} talkers of espeak-ng in {len(TEXTS)} languages, speech at −26 dBFS, converted
in pieces of {PIECE_MS} ms in one state, each compared with an ideal conversion. PESQ: mean / worst talker, 4.64 is the best there
is going up (wide band) and 4.55 going down (narrow band). STOI: worst talker, 1 is best. Late: the filter's delay and what is
held back, for the audio that is held longest.

![PESQ and delay of five methods](sound-quality.svg)

| method | 8→24 kHz: PESQ | STOI | late | 24→8 kHz: PESQ | STOI | late |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

How every figure is defined, and the figures that need no speech: [sound.md](sound.md).
"""
    (DOCS / "sound-quality.md").write_text(text)
    (DOCS / "sound-quality.svg").write_text(picture(results))
    print(text)
    goals = [("up", numpy.mean, 4.57), ("up", min, 4.50), ("down", numpy.mean, 4.53), ("down", min, 4.45)]
    missed = False
    for key, how, goal in goals:
        found = of("offhook", key, how)
        missed |= bool(found < goal)
        talkers = "worst talker" if how is min else "mean of talkers"
        direction = "8 → 24 kHz, wide band" if key == "up" else "24 → 8 kHz, narrow band"
        name = f"PESQ {direction}, {talkers}"
        print(f"{'✗' if found < goal else '✓'} {name:<46}{found:>10.2f}   goal ≥ {goal}")
    sys.exit("a goal was missed" if missed else 0)


main()
