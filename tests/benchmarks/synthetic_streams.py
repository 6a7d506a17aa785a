"""Synthetic streams with many kinds of change, on which `perennial` was designed instead of on real streams.

Each stream has a teacher whose weights change over time. Kinds: none, heteroscedastic noise, outages (one window of shuffled labels),
abrupt, gradual, incremental, recurring, seasonal covariates, slow then fast, fast then slow, mixed.
"""

import zlib
from collections.abc import Iterator

import numpy as np

from tests.benchmarks.streams import Stream

KINDS = ("none", "heteroscedastic", "outage", "abrupt", "gradual", "incremental", "recurring", "seasonal")
KINDS += ("slow_then_fast", "fast_then_slow", "mixed", "one_change")
FEATURES = 6


def synthetic_streams(seeds: int = 2) -> Iterator[Stream]:
    for seed in range(seeds):
        for kind in KINDS:
            for task in ("class", "value"):
                yield synthetic_stream(kind, task, seed)


def synthetic_stream(kind: str, task: str, seed: int) -> Stream:
    """Return one stream; windows (60-96), rows per window (100-300), noise and speed are drawn from the seed."""
    generator = np.random.default_rng(zlib.crc32(f"{kind} {task} {seed}".encode()))
    windows, per_window = int(generator.integers(60, 97)), int(generator.integers(100, 300))
    count = windows * per_window
    time = np.arange(count) / per_window
    inputs = generator.normal(size=(count, FEATURES))
    if kind == "seasonal":
        inputs[:, 0] += 1.5 * np.sin(2 * np.pi * time / generator.uniform(15, 35))
    teachers = generator.normal(size=(4, 2 * FEATURES))
    weights = _weights(kind, time, windows, teachers, generator)
    basis = np.column_stack([inputs, np.sin(2 * inputs[:, ::-1]) + inputs * inputs[:, ::-1] / 2])
    signal = np.einsum("ij,ij->i", basis, weights) / np.sqrt(2 * FEATURES)
    noise = np.full(count, generator.uniform(0.2, 1.0))
    if kind in ("heteroscedastic", "mixed"):
        noise *= 1 + np.sin(2 * np.pi * time / generator.uniform(8, 30)) ** 2 * generator.uniform(0.5, 2)
    target = signal + noise * generator.normal(size=count)
    if kind == "outage":
        for window in generator.choice(windows, 4, replace=False):
            rows = slice(window * per_window, (window + 1) * per_window)
            target[rows] = generator.permutation(target[rows])
    if task == "class":
        target = (target > 0).astype(float)
    scale = None if task == "class" else float(3 * target.std())
    return Stream(f"synthetic_{kind}_{task}_{seed}", inputs.astype(np.float32), target, scale, windows)


def _weights(
    kind: str, time: np.ndarray, windows: int, teachers: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return [rows, weights]: the teacher's weights at each row."""
    first, second = teachers[0], teachers[1] * generator.uniform(0.3, 1.0) + teachers[0] * 0.5
    share = np.zeros(len(time))
    speed = generator.uniform(0.5, 3.0)
    if kind in ("abrupt", "mixed"):
        changes = np.sort(generator.uniform(0, windows, int(generator.integers(2, 6))))
        return teachers[np.searchsorted(changes, time) % 4] * 0.6 + teachers[0] * 0.4
    if kind == "one_change":
        share = (time > windows * generator.uniform(0.35, 0.9)).astype(float)
    elif kind == "gradual":
        middle, width = windows * generator.uniform(0.3, 0.8), windows * generator.uniform(0.03, 0.15)
        share = (generator.uniform(size=len(time)) < 1 / (1 + np.exp(-(time - middle) / width))).astype(float)
    elif kind == "recurring":
        share = (np.sin(2 * np.pi * time / generator.uniform(10, 40)) > 0).astype(float)
    elif kind in ("incremental", "slow_then_fast", "fast_then_slow"):
        place = time / windows
        power = {"incremental": 1.0, "slow_then_fast": 4.0, "fast_then_slow": 0.3}[kind]
        turn = (np.pi * speed * place**power)[:, None]
        return np.cos(turn) * first + np.sin(turn) * second
    return (1 - share)[:, None] * first + share[:, None] * second
