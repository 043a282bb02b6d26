"""Draw requests from ServeGen's fitted clients. The files hold distributions, not a log: the trace is simulated.

Each client (``chunk-N``) has arrivals per 600 s window (rate, coefficient of variation, Gamma or Weibull and its two
parameters) and token distributions per 21,600 s window. Values are parsed as numbers; nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
from math import gamma
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulators.streams import generator
from simulators.traces.formats import SERVEGEN_CHUNK
from simulators.traces.source import MAX_ROWS, MAX_TIME_S, Source, parse_json, shown
from simulators.traces.trace import (
    MAX_TOKENS,
    UNKNOWN,
    Floats,
    Integers,
    Mode,
    Trace,
    TraceError,
    TraceHeader,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_MAX_DISTRIBUTION_CHARACTERS = 2**20
# The published fits lie between 0.01 and 400; far beyond, intervals are all zero or all equal.
_MIN_SHAPE = 1e-3
_MAX_SHAPE = 1e6
_MODALITIES = ("image", "audio", "video")


class _Window(NamedTuple):
    start_s: float
    rate_rps: float
    family: str
    shape: float


class _Distribution(NamedTuple):
    values: Integers
    shares: Floats

    def draw(self, size: int, luck: np.random.Generator) -> Integers:
        return luck.choice(self.values, size, p=self.shares)


def read_servegen(path: Path, seed: int) -> Trace:
    """Draw a trace from a folder of clients, or from one ``chunk-N-trace.csv`` beside its dataset."""
    files = _chunks(path) if path.is_dir() else [path]
    digest = hashlib.sha256()
    drawn: list[tuple[Floats, Integers, Integers]] = []
    room = MAX_ROWS
    for file in files:
        with Source(file) as source:
            windows = list(_windows(source))
            digest.update(source.sha256.encode())
        dataset = file.with_name(file.name.replace("-trace.csv", "-dataset.json"))
        if dataset == file:
            raise TraceError(f"{file}: a ServeGen client is named chunk-N-trace.csv; give the file its name back")
        with Source(dataset) as source:
            tokens = _datasets(source)
            digest.update(source.sha256.encode())
        drawn.extend(_draw(file, windows, tokens, generator(seed, f"servegen {file.name}"), room))
        room = MAX_ROWS - sum(len(arrivals) for arrivals, _, _ in drawn)
    if not sum(len(arrivals) for arrivals, _, _ in drawn):
        raise TraceError(f"{path}: every client's rate is 0; there is nothing to draw")
    arrival_s, input_tokens, output_tokens = (np.concatenate(column) for column in zip(*drawn, strict=True))
    order = np.argsort(arrival_s, kind="stable")
    return Trace.of(
        arrival_s[order],
        input_tokens[order],
        output_tokens[order],
        header=TraceHeader(
            mode=Mode.SIMULATED,
            source="servegen",
            source_sha256=digest.hexdigest(),
            rows_read=len(order),
            rows_emitted=len(order),
            seed=seed,
            notes=(f"drawn from {len(files)} clients' fitted distributions; tokens drawn independently of each other",),
        ),
        name=path.name if path.is_dir() else file.name.split(".")[0],
    )


def _chunks(folder: Path) -> list[Path]:
    files = sorted(folder.glob("chunk-*-trace.csv"))
    if not files:
        raise TraceError(
            f"{folder}: a folder without chunk-*-trace.csv; give a ServeGen client folder, or a trace file"
        )
    return files


def _windows(source: Source) -> Iterator[_Window]:
    previous_s = -1.0
    for line, text, _ in source.lines():
        if not SERVEGEN_CHUNK.fullmatch(text):
            raise source.fault("not a ServeGen window (start_s, rate, cv, Gamma|Weibull|nothing, p1, p2)", line)
        start, rate, _cv, family, shape, _scale = text.split(",")
        try:
            window = _Window(float(start), float(rate), family, float(shape))
        except ValueError:
            raise source.fault(f"{shown(text)} holds a field that is not a number", line) from None
        if not previous_s < window.start_s <= MAX_TIME_S:
            raise source.fault(f"window {window.start_s:g} s does not follow {previous_s:g} s; sort by time", line)
        if not 0 <= window.rate_rps <= MAX_ROWS:
            raise source.fault(f"rate {window.rate_rps} is not between 0 and {MAX_ROWS} requests per second", line)
        if family and not _MIN_SHAPE <= window.shape <= _MAX_SHAPE:
            raise source.fault(f"shape {window.shape} of {family} is not between {_MIN_SHAPE} and {_MAX_SHAPE:g}", line)
        previous_s = window.start_s
        yield window


def _datasets(source: Source) -> list[tuple[float, Mapping[str, _Distribution]]]:
    """Return (window start, distribution per field) in order of time, without the windows that hold no data."""
    document = parse_json(source, 1, source.document())
    if not isinstance(document, dict):
        raise source.fault("not a ServeGen dataset: expected {window: {field: distribution}}", 1)
    datasets: list[tuple[float, Mapping[str, _Distribution]]] = []
    for start, fields in document.items():
        if not start.isdigit() or not isinstance(fields, dict):
            raise source.fault(f"window {shown(start)} is not a number of seconds with fields", 1)
        parsed = {
            name: _distribution(source, start, name, text) for name, text in fields.items() if "ratio" not in name
        }
        if all(len(each.values) for each in parsed.values()):
            datasets.append((float(start), parsed))
    return sorted(datasets, key=lambda each: each[0])


def _distribution(source: Source, window: str, name: str, text: Any) -> _Distribution:
    """Return the numbers of ``{136: 0.25, 372: 0.75}``, a Python literal inside a JSON string."""
    where = f"{name} of window {window}"
    if not isinstance(text, str) or len(text) > _MAX_DISTRIBUTION_CHARACTERS:
        raise source.fault(f"{where} is not a string of at most {_MAX_DISTRIBUTION_CHARACTERS} characters")
    inner = text.strip()
    if not (inner.startswith("{") and inner.endswith("}")):
        raise source.fault(f"{where} is {shown(text)}; expected {{tokens: probability, ...}}")
    try:
        pairs = [pair.split(":") for pair in inner[1:-1].split(",") if pair.strip()]
        numbers = [(float(value), float(share)) for value, share in pairs]
    except ValueError:
        raise source.fault(f"{where} holds something else than tokens: probability pairs") from None
    values, shares = np.array(numbers, dtype=np.float64).reshape(-1, 2).T
    if not np.all((values >= 0) & (values <= MAX_TOKENS) & (values % 1 == 0)):
        raise source.fault(f"{where} holds a count that is not a whole number from 0 to {MAX_TOKENS}")
    if len(shares) and not (np.all(shares >= 0) and abs(shares.sum() - 1) < 1e-3):
        raise source.fault(f"{where} holds probabilities that sum to {shares.sum():g}, not 1")
    return _Distribution(values.astype(np.int64), shares / shares.sum() if len(shares) else shares)


def _draw(
    file: Path,
    windows: list[_Window],
    datasets: list[tuple[float, Mapping[str, _Distribution]]],
    luck: np.random.Generator,
    room: int,
) -> Iterator[tuple[Floats, Integers, Integers]]:
    for window, following in zip(windows, [*windows[1:], None], strict=True):
        if not window.family or not window.rate_rps:
            continue
        # The last window is as long as the one before it, or ServeGen's 600 s.
        length_s = following.start_s - window.start_s if following else _usual_length_s(windows)
        if window.rate_rps * length_s > room:
            raise TraceError(f"{file}: more than {MAX_ROWS} requests to draw; use fewer clients or windows")
        arrivals = window.start_s + _renewals(window, length_s, luck)
        room -= len(arrivals)
        current = [fields for start_s, fields in datasets if start_s <= window.start_s]
        yield arrivals, *_tokens(current[-1] if current else {}, len(arrivals), luck)


def _usual_length_s(windows: list[_Window]) -> float:
    return windows[-1].start_s - windows[-2].start_s if len(windows) > 1 else 600.0


def _renewals(window: _Window, length_s: float, luck: np.random.Generator) -> Floats:
    """Return arrivals within the window: intervals of the fitted family and shape, scaled to the window's rate."""
    mean_s = 1.0 / window.rate_rps
    moments: list[Floats] = []
    now_s = 0.0
    while now_s < length_s and sum(map(len, moments)) <= MAX_ROWS:
        size = int((length_s - now_s) / mean_s * 1.1) + 16
        if window.family == "Gamma":
            intervals = luck.gamma(window.shape, mean_s / window.shape, size)
        else:
            intervals = luck.weibull(window.shape, size) * (mean_s / gamma(1 + 1 / window.shape))
        moments.append(now_s + np.cumsum(intervals))
        now_s = float(moments[-1][-1])
    arrivals = np.concatenate(moments)
    return arrivals[arrivals < length_s]


def _tokens(fields: Mapping[str, _Distribution], size: int, luck: np.random.Generator) -> tuple[Integers, Integers]:
    """Return input and output tokens; media count once per image, sound or film."""
    output = fields["output_tokens"].draw(size, luck) if "output_tokens" in fields else np.full(size, UNKNOWN)
    text = fields.get("input_tokens") or fields.get("text_tokens")
    if text is None:
        return np.full(size, UNKNOWN), output
    total = text.draw(size, luck)
    for modality in _MODALITIES:
        if f"{modality}_count" in fields and f"{modality}_tokens" in fields:
            counts = fields[f"{modality}_count"].draw(size, luck)
            if counts.sum() > MAX_ROWS:
                raise TraceError(
                    f"a window draws {counts.sum()} {modality} parts, beyond {MAX_ROWS}; use fewer clients"
                )
            owners = np.repeat(np.arange(size), counts)
            media = fields[f"{modality}_tokens"].draw(len(owners), luck)
            total = total + np.bincount(owners, media, size).astype(np.int64)
    return total, output
