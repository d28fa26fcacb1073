"""Speech made with espeak-ng and noise made with NumPy: what training may use and what it never sees.

Everything is made in clips of `CLIP` samples at 16 kHz. A voice is a pair (language or accent, voice
variant); the held-out voices share neither with any voice of the training, and the held-out sentences are
other sentences. The held-out noises are other kinds of noise, not other takes of a known kind.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from dsp import RATE, FloatArray

CLIP = 10 * RATE


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LANGUAGES = _words(
    "en-us en-gb en-gb-x-rp en-gb-x-gbclan en-029 en-us-nyc de nl sv fr-fr es es-419 it pt pt-br ro pl cs fi"
    " hu tr id"
)
VARIANTS = _words(
    "f1 f2 f3 f5 m1 m2 m4 m5 m6 m7 m8 Alex Alicia Andrea Andy adam anika antonio aunty belinda benjamin"
    " boris caleb david Denis Diogo ed edward Gene grandma grandpa Henrique Hugo iven Jacky john Lee linda"
    " marcelo Marco Mario Michael michel miguel Mike Nguyen norbert pablo paul pedro quincy rob robert sandro"
    " shelby steph Storm travis victor zac klatt2 klatt4 whisper"
)
HELD_OUT_VOICES = (("en-gb-scotland", "f4"), ("en-gb-x-gbcwmd", "m3"), ("da", "Annie"))

WORDS = _words(
    "time people water morning house river mountain window garden letter music winter summer yellow orange"
    " kitchen teacher doctor village station bridge market finger shoulder question answer number picture"
    " weather thunder friend mother brother children horse chicken butter cheese apple pepper sugar coffee"
    " silver golden copper quick slow heavy light narrow broad gentle rough smooth bitter sweet early late"
    " always never often seldom walk run jump sing speak whisper shout write read carry throw catch build"
    " break mend open close begin finish seven eleven twelve thirty hundred thousand first second third above"
    " below between behind against through judge church measure vision shoes fish ship chip zebra jazz vague"
    " thick thing this that breathe path father young yes useful quiet queen square twist splash strong"
    " spring scratch texts months sixths clothes world boy joy house cloud loud now here there pure near fair"
    " tour fire hour power going being idea radio area"
)
ONSETS = _words("b d f g h j k l m n p r s t v w z sh ch th st tr pl br sk gl fr kw")
RHYMES = _words("a e i o u ai ee oo ar er or an in on un el il am em ing ist ost ent ank aft")

HELD_OUT_SENTENCES = (
    "The red canoe drifted past the wooden pier, while the old lighthouse blinked across the bay.",
    "Please remember to water the tomatoes before you leave for the airport.",
    "Six grey geese flew slowly over the frozen lake at dawn.",
    "I would like a cup of tea with lemon, and perhaps a small piece of that chocolate cake.",
    "Nobody knew why the piano in the attic played by itself every Thursday.",
    "The engineers measured the vibration twice and wrote the figures into a blue notebook.",
)


def resample(samples: FloatArray, source: float, target: float) -> FloatArray:
    """Resample `(N,)` from rate `source` to rate `target` by cutting or padding its spectrum."""
    count = round(len(samples) * target / source)
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(count // 2 + 1, spectrum.dtype)
    shared = min(len(kept), len(spectrum))
    kept[:shared] = spectrum[:shared]
    return (np.fft.irfft(kept, count) * (count / len(samples))).astype(np.float32)


def speak(
    text: str, language: str, variant: str, speed: int = 160, pitch: int = 50, stretch: float = 1.0
) -> FloatArray:
    """Let espeak-ng say `text` and return samples `(N,)` at 16 kHz.

    `stretch` plays the speech faster or slower like a tape, which moves the formants too and so makes another
    speaker out of the same variant.
    """
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng was not found: it makes the speech to train on (Debian: apt install espeak-ng)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = [
            "espeak-ng",
            "-v",
            f"{language}+{variant}",
            "-s",
            str(speed),
            "-p",
            str(pitch),
            "-w",
            str(path),
        ]
        done = subprocess.run([*command, text], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not path.exists():
            sys.exit(f"espeak-ng could not speak with voice {language}+{variant}: {done.stderr.strip()}")
        with wave.open(str(path), "rb") as file:
            rate = file.getframerate()
            raw = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    return resample(raw, rate * stretch, RATE)


def sentence(rng: np.random.Generator) -> str:
    """Return a meaningless sentence of known and invented words, so that any sound may follow any other."""
    words = []
    for _ in range(rng.integers(3, 10)):
        if rng.random() < 0.7:
            words.append(str(rng.choice(WORDS)))
        else:
            words.append("".join(rng.choice(ONSETS) + rng.choice(RHYMES) for _ in range(rng.integers(1, 4))))
    return " ".join(words) + "."


def speech_clip(rng: np.random.Generator) -> FloatArray:
    """Return one clip `(CLIP,)` of a random training voice with pauses between the sentences."""
    language, variant = str(rng.choice(LANGUAGES)), str(rng.choice(VARIANTS))
    speed, pitch = int(rng.integers(110, 230)), int(rng.integers(15, 90))
    stretch = float(rng.uniform(0.87, 1.15))
    parts: list[FloatArray] = []
    while sum(map(len, parts)) < CLIP:
        parts.append(np.zeros(int(rng.uniform(0.0, 0.9) * RATE), np.float32))
        parts.append(speak(sentence(rng), language, variant, speed, pitch, stretch) * rng.uniform(0.6, 1.0))
    return np.concatenate(parts)[:CLIP].astype(np.float32)


def held_out_speech(voice: tuple[str, str], sentences: tuple[str, ...] = HELD_OUT_SENTENCES) -> FloatArray:
    """Return `(N,)` samples of a held-out voice that says the held-out sentences."""
    gap = np.zeros(int(0.45 * RATE), np.float32)
    parts = [gap]
    for text in sentences:
        parts += [speak(text, *voice), gap]
    return np.concatenate(parts)


# ------------------------------------------------------------------------------------- noise, building blocks


def shaped(rng: np.random.Generator, count: int, gain_db: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Return Gaussian noise `(count,)` whose spectrum follows `gain_db(frequency in Hz)`."""
    frequency = np.fft.rfftfreq(count, 1 / RATE).astype(np.float32)
    spectrum = np.fft.rfft(rng.standard_normal(count, np.float32))
    return np.fft.irfft(spectrum * 10 ** (gain_db(frequency) / 20), count).astype(np.float32)


def tilted(rng: np.random.Generator, count: int, db_per_octave: float) -> FloatArray:
    """Return noise whose level changes by `db_per_octave`: 0 is white, -3 is pink, -6 is brown."""
    return shaped(rng, count, lambda f: db_per_octave * np.log2(np.maximum(f, 40) / 1000))


def drift(rng: np.random.Generator, count: int, per_second: float) -> FloatArray:
    """Return a slow random curve `(count,)` of unit deviation with about `per_second` turns a second."""
    knots = max(4, int(count / RATE * per_second) + 3)
    curve = np.interp(np.linspace(0, knots - 1, count), np.arange(knots), rng.standard_normal(knots))
    return curve.astype(np.float32)


def harmonics(rng: np.random.Generator, pitch: FloatArray, count: int, db_per_octave: float) -> FloatArray:
    """Return `count` harmonics of the instantaneous frequency `pitch` `(N,)` in Hz, with uneven levels."""
    phase = 2 * np.pi * np.cumsum(pitch, dtype=np.float64) / RATE
    total = np.zeros(len(pitch), np.float32)
    for order in range(1, count + 1):
        if order * pitch.max() < RATE / 2:
            level = 10 ** ((db_per_octave * np.log2(order) + rng.normal(0, 5)) / 20)
            total += (level * np.sin(order * phase + rng.uniform(0, 2 * np.pi))).astype(np.float32)
    return total


def pings(
    rng: np.random.Generator,
    count: int,
    per_second: float,
    frequency: tuple[float, float],
    decay: tuple[float, float],
    tonal: float,
) -> FloatArray:
    """Return short decaying hits at random times: `tonal` of each is a ring, the rest a burst of noise."""
    total = np.zeros(count, np.float32)
    for start in rng.integers(0, count, rng.poisson(per_second * count / RATE)):
        fade = np.exp(rng.uniform(np.log(decay[0]), np.log(decay[1])))
        time = np.arange(min(int(6 * fade * RATE) + 1, count - start), dtype=np.float32) / RATE
        ring = np.sin(2 * np.pi * rng.uniform(*frequency) * time)
        burst = rng.standard_normal(len(time), np.float32)
        total[start : start + len(time)] += (
            rng.gamma(1.5) * np.exp(-time / fade) * (tonal * ring + (1 - tonal) * burst)
        ).astype(np.float32)
    return total


def unit(samples: FloatArray) -> FloatArray:
    """Scale `(N,)` to an RMS of one."""
    return samples / (np.sqrt(np.mean(samples**2)) + np.float32(1e-9))


# ----------------------------------------------------------------------------------- noise, kinds to train on


def coloured(rng: np.random.Generator) -> FloatArray:
    """White, pink, brown and everything between and a little beyond."""
    return tilted(rng, CLIP, rng.choice([0.0, -3.0, -6.0, rng.uniform(-8, 3)]))


def banded(rng: np.random.Generator) -> FloatArray:
    """Noise in one or more bands."""
    centres = np.exp(rng.uniform(np.log(100), np.log(7000), rng.integers(1, 5)))
    widths = rng.uniform(0.1, 1.2, len(centres))

    def gain(frequency: FloatArray) -> FloatArray:
        octaves = np.log2(np.maximum(frequency, 20)[:, None] / centres)
        return np.max(-12 * (octaves / widths) ** 2, axis=1).clip(-45)

    return shaped(rng, CLIP, gain)


def hum(rng: np.random.Generator) -> FloatArray:
    """Mains hum with its harmonics over a little hiss."""
    pitch = np.full(CLIP, rng.choice([50.0, 60.0, 100.0, 120.0]) * rng.uniform(0.99, 1.01), np.float32)
    tone = unit(harmonics(rng, pitch, rng.integers(4, 40), rng.uniform(-9, -2)))
    return tone + rng.uniform(0.05, 0.5) * unit(tilted(rng, CLIP, rng.uniform(-4, 0)))


def engine(rng: np.random.Generator) -> FloatArray:
    """An engine or motor: harmonics of a wandering speed, over rumble or whirr."""
    speed = np.exp(rng.uniform(np.log(25), np.log(500)))
    pitch = speed * 2 ** (rng.uniform(0.005, 0.3) * drift(rng, CLIP, rng.uniform(0.1, 2)))
    tone = unit(harmonics(rng, pitch.astype(np.float32), rng.integers(8, 50), rng.uniform(-7, -1)))
    return tone + rng.uniform(0.2, 1.5) * unit(tilted(rng, CLIP, rng.uniform(-8, 0)))


def fan(rng: np.random.Generator) -> FloatArray:
    """A fan: steady air noise with a resonance, beaten by the blades."""
    centre, width = np.exp(rng.uniform(np.log(150), np.log(3000))), rng.uniform(0.3, 2)
    tilt, height = rng.uniform(-6, -1), rng.uniform(3, 15)
    air = shaped(
        rng,
        CLIP,
        lambda f: (
            tilt * np.log2(np.maximum(f, 60) / 1000)
            + height * np.exp(-((np.log2(np.maximum(f, 20) / centre) / width) ** 2))
        ),
    )
    blades = 1 + rng.uniform(0, 0.5) * np.sin(2 * np.pi * rng.uniform(5, 60) * np.arange(CLIP) / RATE)
    return (air * blades).astype(np.float32)


def wind(rng: np.random.Generator) -> FloatArray:
    """Wind in gusts: low noise whose level rises and falls a lot."""
    gusts = 10 ** (rng.uniform(3, 9) * drift(rng, CLIP, rng.uniform(0.5, 4)) / 20)
    return gusts * tilted(rng, CLIP, rng.uniform(-10, -4))


def swells(rng: np.random.Generator) -> FloatArray:
    """Passing traffic or surf: several bands of noise, each with a level of its own that changes."""
    total = np.zeros(CLIP, np.float32)
    for _ in range(rng.integers(2, 5)):
        total += 10 ** (rng.uniform(2, 8) * drift(rng, CLIP, rng.uniform(0.2, 3)) / 20) * unit(banded(rng))
    return total


def keyboard(rng: np.random.Generator) -> FloatArray:
    """Key strokes and knocks over a faint room."""
    keys = unit(pings(rng, CLIP, rng.uniform(2, 12), (300, 5000), (0.002, 0.02), rng.uniform(0.2, 0.8)))
    return keys + rng.uniform(0.02, 0.4) * unit(tilted(rng, CLIP, rng.uniform(-6, -2)))


def crackle(rng: np.random.Generator) -> FloatArray:
    """Single-sample clicks as of an old record or a bad contact, over hiss."""
    clicks = np.where(rng.random(CLIP) < rng.uniform(5, 300) / RATE, rng.standard_normal(CLIP), 0)
    return unit(clicks.astype(np.float32)) + rng.uniform(0.05, 0.7) * unit(
        tilted(rng, CLIP, rng.uniform(-4, 1))
    )


def alarm(rng: np.random.Generator) -> FloatArray:
    """Beeps, sirens and whistles."""
    sweep = rng.uniform(0, 0.3) * np.sin(2 * np.pi * rng.uniform(0.2, 4) * np.arange(CLIP) / RATE)
    pitch = (rng.uniform(300, 3000) * 2**sweep).astype(np.float32)
    tone = harmonics(rng, pitch, rng.integers(1, 5), rng.uniform(-12, -4))
    if rng.random() < 0.5:
        tone = tone * (
            np.sin(2 * np.pi * rng.uniform(0.5, 4) * np.arange(CLIP) / RATE) > rng.uniform(-0.5, 0.5)
        )
    return unit(tone.astype(np.float32)) + rng.uniform(0.05, 0.6) * unit(
        tilted(rng, CLIP, rng.uniform(-6, 0))
    )


def babble(rng: np.random.Generator) -> FloatArray:
    """Several training voices at once."""
    total = np.zeros(CLIP, np.float32)
    for _ in range(rng.integers(4, 9)):
        total += 10 ** (rng.uniform(-8, 0) / 20) * unit(speech_clip(rng))
    return unit(total) + rng.uniform(0.02, 0.3) * unit(tilted(rng, CLIP, rng.uniform(-6, -2)))


TRAINING_NOISES = (coloured, banded, hum, engine, fan, wind, swells, keyboard, crackle, alarm, babble)


# -------------------------------------------------------------------------------------- noise, kinds held out


def vacuum_cleaner(rng: np.random.Generator) -> FloatArray:
    """A vacuum cleaner moved over a carpet: motor whine, rushing air and the brush."""
    stroke = np.sin(2 * np.pi * 0.7 * np.arange(CLIP) / RATE + rng.uniform(0, 6)).astype(np.float32)
    whine = unit(harmonics(rng, 290 + 6 * stroke + 2 * drift(rng, CLIP, 3), 24, -2.0))
    air = unit(shaped(rng, CLIP, lambda f: 10 * np.exp(-(((f - 900) / 700) ** 2)) - f / 900))
    brush = unit(shaped(rng, CLIP, lambda f: -(((f - 4200) / 1500) ** 2)))
    return 0.6 * whine + air + 0.5 * (1 + 0.8 * stroke) * brush


def rain(rng: np.random.Generator) -> FloatArray:
    """Rain on a window: thousands of drops that ring, over the hiss of those further away."""
    drops = unit(pings(rng, CLIP, 250, (1200, 6500), (0.001, 0.008), 0.7))
    hiss = unit(shaped(rng, CLIP, lambda f: -np.abs(np.log2(np.maximum(f, 50) / 3500)) * 5))
    return drops + 0.8 * hiss


HELD_OUT_NOISES = (rain, vacuum_cleaner)
