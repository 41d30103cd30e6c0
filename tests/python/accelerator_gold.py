"""A third reading of docs/microarchitecture.md, in plain Python: what decides who of two is wrong.

Slow, and written for nothing but to follow the document section by section. Takes a
`h2learn.verify_cases.Case` and gives what `_core.simulate` gives.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from h2learn import _core
from h2learn.shapes import out_size

ENGINES = ("forward", "soma", "gradient", "backward", "update")
PASSES = (
    "forward", "soma", "recompute_forward", "recompute_soma", "gradient", "backward", "update"
)  # fmt: skip


def ceil(a, b):
    return -(-a // b)


@dataclass(eq=False)
class Block:
    index: int
    images: list  # positions in the sequence
    first: int  # unit
    units: int  # of each image
    first_chunk: bool
    last_chunk: bool


def cut(count, units, cap, most):
    if units <= cap:
        size = int(min(cap // units, most, count))
        starts = range(0, count, size)
        return [
            Block(i, list(range(at, min(at + size, count))), 0, units, True, True)
            for i, at in enumerate(starts)
        ]
    blocks = []
    for image in range(count):
        for at in range(0, units, cap):
            size = min(cap, units - at)
            blocks.append(Block(len(blocks), [image], at, size, at == 0, at + size == units))
    return blocks


@dataclass(eq=False)
class Tile:
    engine: int
    passes: int
    part: int
    layer: int
    block: int
    column: int = 0
    row: int = 0
    depth: int = 0
    load_bytes: int = 0
    store_bytes: int = 0
    build: int = 0
    run: int = 0
    count: dict = field(default_factory=lambda: defaultdict(int))
    data: list = field(default_factory=list)
    order: list = field(default_factory=list)
    # times
    ready: int | None = None
    issue: int | None = None
    loaded: int | None = None
    built: int | None = None
    start: int | None = None
    end: int | None = None
    store: int | None = None
    done: int | None = None


class Layer:
    """Shapes and bits of one layer, rows = timestep * samples + sample."""

    def __init__(self, layer):
        g = layer.geometry
        (self.c, self.h, self.w, self.n, self.kh, self.kw, self.sh, self.sw,
         self.ph, self.pw, self.dh, self.dw, self.groups) = g  # fmt: skip
        self.oh, self.ow = out_size(g)
        self.p_in, self.p_out = self.h * self.w, self.oh * self.ow
        self.taps = self.kh * self.kw
        self.cg, self.ng = self.c // self.groups, self.n // self.groups
        self.k = self.taps * self.cg
        self.q, self.t, self.b = layer.inputs.shape[:3]
        self.inputs = layer.inputs.reshape(self.q, self.t * self.b, self.p_in, self.c)
        flat = (self.t * self.b, -1)
        self.mask = None if layer.mask is None else layer.mask.reshape(*flat, self.c)
        self.nonzero = None if layer.nonzero is None else layer.nonzero.reshape(*flat, self.n)
        self.backward = self.nonzero is not None and layer.input_gradient
        self.update = self.nonzero is not None and layer.weight_gradient
        self.neurons, self.membrane = layer.neurons, layer.membrane
        self.image_bytes = self.q * ceil(self.c * self.p_in, 8)
        # input position that output position o reads through a tap, and the reverse; -1: none
        self.reads = np.full((self.p_out, self.taps), -1)
        self.read_by = np.full((self.p_in, self.taps), -1)
        for o in range(self.p_out):
            for tap in range(self.taps):
                y = (o // self.ow) * self.sh - self.ph + (tap // self.kw) * self.dh
                x = (o % self.ow) * self.sw - self.pw + (tap % self.kw) * self.dw
                if 0 <= y < self.h and 0 <= x < self.w:
                    self.reads[o, tap] = y * self.w + x
                    self.read_by[y * self.w + x, tap] = o

    def windows(self, row, group):
        """[q, P_out, K] bits of one image that the outputs of a group read."""
        image = self.inputs[:, row, :, group * self.cg : (group + 1) * self.cg]
        padded = np.concatenate([image, np.zeros_like(image[:, :1])], axis=1)  # -1 reads zeros
        return padded[:, self.reads].reshape(self.q, self.p_out, self.k)


class Gold:
    def __init__(self, case):
        self.p = case.parameters
        self.v = self.p["value_bytes"]
        self.layers = [Layer(layer) for layer in case.layers]
        self.t, self.b = self.layers[0].t, self.layers[0].b
        self.parts = min(self.p["parts"], self.b)
        self.queues = [[] for _ in ENGINES]
        self.program = []
        self.sets = []  # (first tile, soma tile), in program order; re-sorted under batch
        self.resident = [self.keep(part) for part in range(self.parts)]

    def samples(self, part):
        return self.b // self.parts + (part < self.b % self.parts)

    def rows(self, part):
        """Workload rows of the forward sequence."""
        first = sum(self.samples(p) for p in range(part))
        images = range(self.t * self.samples(part))
        return [(i % self.t) * self.b + first + i // self.t for i in images]

    def timestep(self, row):
        return row // self.b

    # ---- state kept on chip

    def keep(self, part):
        n = self.t * self.samples(part)
        left = self.p["state_bytes"] // 2
        kept = [set() for _ in self.layers]

        def place(layer, name, size):
            nonlocal left
            if size <= left:
                left -= size
                kept[layer].add(name)

        for i, layer in enumerate(self.layers):
            bits = n * ceil(layer.n * layer.p_out, 8)
            if layer.neurons:
                place(i, "spikes", bits)
                if layer.nonzero is not None:
                    place(i, "mask", bits)
        for i, layer in reversed(list(enumerate(self.layers))):
            if layer.nonzero is not None:
                place(i, "current", n * layer.n * layer.p_out * self.v)
            if i > 0 and layer.backward:
                place(i - 1, "spike", n * layer.c * layer.p_in * self.v)
        for i, layer in enumerate(self.layers):
            if layer.nonzero is not None and layer.neurons and layer.membrane:
                size = n * layer.n * layer.p_out * 4
                if self.p["membrane"] == "store":
                    place(i, "membrane", size)
                elif size <= left:
                    kept[i].add("membrane")
        return kept

    def fed_by_layer_below(self, i):
        if i == 0 or not self.layers[i - 1].neurons:
            return False
        above, below = self.layers[i], self.layers[i - 1]
        return above.c * above.p_in <= below.n * below.p_out

    def inputs_on_chip(self, part, i):
        return self.fed_by_layer_below(i) and "spikes" in self.resident[part][i - 1]

    def mask_on_chip(self, part, i):
        return self.fed_by_layer_below(i) and "mask" in self.resident[part][i - 1]

    # ---- engines

    def emit(self, tile):
        self.program.append(tile)
        return tile

    def columns(self, layer, columns):
        """(group, first output channel of all, how many) of each column tile."""
        return [
            (group, group * layer.ng + at, min(columns, layer.ng - at))
            for group in range(layer.groups)
            for at in range(0, layer.ng, columns)
        ]

    def forward(self, part, i, recompute, prerequisites):
        layer, p, v = self.layers[i], self.p, self.v
        rows = self.rows(part)
        cap = p["forward.psum_bytes"] // 2 // (4 * p["forward.columns"])
        most = p["forward.spikes_bytes"] // 2 // layer.image_bytes
        fits = layer.n * layer.k * v <= p["forward.weights_bytes"] // 2
        inputs, reach = p["forward.inputs"], p["forward.rows"] * p["forward.inputs"]
        drain = math.ceil(math.log2(p["forward.rows"])) + 2
        first_of_pass = True
        last_soma = None
        for block in cut(len(rows), layer.p_out, cap, most):
            images = [rows[image] for image in block.images]
            first_of_block = True
            for column, (group, _, c) in enumerate(self.columns(layer, p["forward.columns"])):
                bits = np.concatenate(
                    [
                        layer.windows(row, group)[:, block.first : block.first + block.units]
                        for row in images
                    ],
                    axis=1,
                )
                m = bits.shape[1]
                tiles = []
                for row_tile, at in enumerate(range(0, layer.k, reach)):
                    part_bits = bits[:, :, at : at + reach]
                    kappa = part_bits.shape[2]
                    r = ceil(kappa, inputs)
                    tile = self.emit(
                        Tile(0, 2 if recompute else 0, part, i, block.index, column, row_tile)
                    )
                    n = tile.count
                    weights = 0
                    if first_of_block and block.first_chunk and not self.inputs_on_chip(part, i):
                        tile.load_bytes += layer.image_bytes * len(images)
                        n["spike_write_bits"] = 8 * layer.image_bytes * len(images)
                    if not fits:
                        weights = kappa * c
                    elif first_of_pass:
                        weights = layer.n * layer.k
                    tile.load_bytes += weights * v
                    first_of_block = first_of_pass = False
                    ii = max(
                        1,
                        ceil(c, p["forward.psum_banks"]),
                        ceil(kappa, p["forward.spikes_banks"] * 32),
                    )
                    tile.build = ceil(kappa * c, p["forward.weights_banks"])
                    if p["forward.tables"]:
                        tile.build = max(2**inputs - 1, tile.build)
                        tile.run = m * layer.q * ii + drain
                    else:
                        tile.run = m * layer.q * ii * inputs + drain
                    padded = np.zeros((layer.q, m, r * inputs), bool)
                    padded[:, :, :kappa] = part_bits
                    set_bits = int(part_bits.sum())
                    indices = int(padded.reshape(layer.q, m, r, inputs).any(axis=3).sum())
                    n["operations_offered"] = m * layer.q * kappa * c
                    n["operations_needed"] = set_bits * c
                    self.count_tables(
                        n, p["forward.tables"], inputs, r, c, m * layer.q * r, indices, set_bits
                    )
                    n["weight_reads"] = kappa * c
                    n["weight_writes"] = weights
                    n["spike_read_bits"] = m * layer.q * kappa
                    n["psum_reads"] = m * c * (layer.q - (row_tile == 0))
                    n["psum_writes"] = m * c * layer.q
                    tile.data += prerequisites
                    tiles.append(tile)
                last_soma = self.soma(part, i, recompute, block, images, column, m, c, tiles)
                self.sets.append((tiles[0], last_soma))
        return last_soma

    def count_tables(self, n, tables, inputs, r, c, indices, not_zero, set_bits):
        if tables:
            n["table_builds"] = r * c
            n["table_writes"] = r * c * (2**inputs - 1)
            n["table_reads"] = c * not_zero
            n["table_reads_skipped"] = c * (indices - not_zero)
            n["additions"] = r * c * (2**inputs - 1 - inputs) + c * not_zero
        else:
            n["additions"] = set_bits * c

    def soma(self, part, i, recompute, block, images, column, m, c, tiles):
        layer, p = self.layers[i], self.p
        u = m * c
        tile = self.emit(Tile(1, 3 if recompute else 1, part, i, block.index, column))
        tile.data.append(tiles[-1])
        tile.run = ceil(u, min(p["soma.lanes"], p["forward.psum_banks"])) + p["soma.latency_cycles"]
        n, kept = tile.count, self.resident[part][i]
        n["additions"] = n["psum_reads"] = u
        if layer.neurons:
            n["additions"], n["multiplications"], n["comparisons"] = 2 * u, u, 2 * u
            n["membrane_reads"] = n["membrane_writes"] = u
            if layer.n * layer.p_out * 4 > p["membrane_bytes"] // 2:
                carried = c * min(layer.p_out, m) * 4
                if self.timestep(images[0]) != 0:
                    tile.load_bytes += carried
                if self.timestep(images[-1]) != self.t - 1:
                    tile.store_bytes += carried
            if not recompute:
                n["spike_write_bits"] = u
                if "spikes" not in kept:
                    tile.store_bytes += ceil(u, 8)
                if layer.nonzero is not None:
                    n["mask_write_bits"] = u
                    if "mask" not in kept:
                        tile.store_bytes += ceil(u, 8)
            keeps = layer.nonzero is not None and layer.membrane
            keeps = keeps and recompute == (p["membrane"] == "recompute")
            if keeps and "membrane" not in kept:
                tile.store_bytes += 4 * u
        return tile

    def made_bytes(self, i, row):
        """gs_bytes of an image: what the backward engine of layer i makes."""
        layer = self.layers[i]
        if layer.mask is None or not self.p["backward.output_sparsity"]:
            return self.v * layer.p_in * layer.c
        return self.v * int(layer.mask[row].sum())

    def gradient(self, part, i, prerequisites, update_before):
        layer, p, v = self.layers[i], self.p, self.v
        rows = self.rows(part)[::-1]
        units = layer.n * layer.p_out
        top = not any(other.backward for other in self.layers[i + 1 : i + 2])
        kept = self.resident[part][i]
        blocks = cut(len(rows), units, p["gradient.buffer_bytes"] // 2 // (v + 4), math.inf)
        last_tile_of = {}
        for block in blocks:
            images = [rows[image] for image in block.images]
            u = len(images) * block.units
            tile = self.emit(Tile(2, 4, part, i, block.index))
            tile.run = ceil(u, p["gradient.lanes"]) + p["gradient.latency_cycles"]
            tile.data += prerequisites
            if block.index == 0 and update_before is not None:
                tile.order.append(update_before)
            n = tile.count
            n["gradient_reads"] = n["gradient_writes"] = u
            bitmap = len(images) * ceil(block.units, 8)
            if top:
                tile.load_bytes += u * v
            elif "spike" not in kept and block.first_chunk:
                tile.load_bytes += sum(self.made_bytes(i + 1, row) for row in images)
            if layer.neurons:
                tile.load_bytes += bitmap * (("mask" not in kept) + ("spikes" not in kept))
                n["spike_read_bits"] = n["mask_read_bits"] = u
                if layer.membrane:
                    tile.load_bytes += 4 * u * ("membrane" not in kept)
                    n["membrane_reads"] = u
                n["additions"] = 2 * u if layer.membrane else u
                n["multiplications"] = 3 * u if layer.membrane else u
                if units * 4 > p["membrane_bytes"] // 2:
                    carried = min(units, u) * 4
                    if self.timestep(images[0]) != self.t - 1:
                        tile.load_bytes += carried
                    if self.timestep(images[-1]) != 0:
                        tile.store_bytes += carried
            if "current" not in kept:
                if p["compressed_gradients"]:
                    flat = layer.nonzero[images].reshape(len(images), units)
                    values = int(flat[:, block.first : block.first + block.units].sum())
                    tile.store_bytes += bitmap + v * values
                else:
                    tile.store_bytes += u * v
            if block.last_chunk:
                for image in block.images:
                    last_tile_of[image] = tile
        return last_tile_of

    def backward(self, part, i, gradients):
        layer, p, v = self.layers[i], self.p, self.v
        rows = self.rows(part)[::-1]
        size = p["backward.slice"]
        slices = [
            (at, min(size, layer.cg - at)) for at in range(0, layer.cg, size)
        ]  # of a group of channels
        reduction = layer.taps * layer.ng
        rho = min(p["backward.tile_rows"], reduction)
        j = min(
            len(slices),
            p["backward.weights_bytes"] // 2 // (v * rho * size),
            p["backward.psum_bytes"] // 2 // (4 * size),
        )
        cap = p["backward.psum_bytes"] // 2 // (4 * min(j * size, layer.cg))
        most = p["backward.gradients_bytes"] // 2 // (layer.n * layer.p_out * v)
        fits = layer.n * layer.k * v <= p["backward.weights_bytes"] // 2
        columns = [
            (group, slices[at : at + j])
            for group in range(layer.groups)
            for at in range(0, len(slices), j)
        ]
        masked = layer.mask is not None and p["backward.output_sparsity"]
        lanes, banks = p["backward.lanes"], p["backward.weights_banks"]
        kept = self.resident[part]
        first_of_pass = True
        last = None
        for block in cut(len(rows), layer.p_in, cap, most):
            images = [rows[image] for image in block.images]
            first_of_block = True
            for column, (group, own) in enumerate(columns):
                lines = list(range(0, reduction, p["backward.tile_rows"]))
                for row_tile, at in enumerate(lines):
                    span = min(p["backward.tile_rows"], reduction - at)
                    tile = last = self.emit(Tile(3, 5, part, i, block.index, column, row_tile))
                    tile.data.append(gradients[block.images[-1]])
                    n = tile.count
                    weights = 0
                    if first_of_block and block.first_chunk:
                        if "current" not in kept[i]:
                            if p["compressed_gradients"]:
                                tile.load_bytes += len(images) * ceil(layer.n * layer.p_out, 8)
                                tile.load_bytes += v * int(layer.nonzero[images].sum())
                            else:
                                tile.load_bytes += len(images) * layer.n * layer.p_out * v
                        if masked and not self.mask_on_chip(part, i):
                            mask_bytes = len(images) * ceil(layer.c * layer.p_in, 8)
                            tile.load_bytes += mask_bytes
                            n["mask_write_bits"] = 8 * mask_bytes
                    if not fits:
                        weights = span * sum(h for _, h in own)
                    elif first_of_pass:
                        weights = layer.n * layer.k
                    tile.load_bytes += weights * v
                    n["weight_writes"] = weights
                    first_of_block = first_of_pass = False
                    free = [0] * p["backward.groups"]
                    made = 0
                    for row in images:
                        for position in range(block.first, block.first + block.units):
                            valid = n_in = 0
                            for r in range(at, at + span):
                                output = layer.read_by[position, r // layer.ng]
                                if output < 0:
                                    continue
                                valid += 1
                                channel = group * layer.ng + r % layer.ng
                                zero = not layer.nonzero[row, output, channel]
                                n_in += not (zero and p["backward.input_sparsity"])
                            for first, h in own:
                                needed = list(range(first, first + h))
                                if masked:
                                    base = group * layer.cg
                                    needed = [
                                        c for c in needed if layer.mask[row, position, base + c]
                                    ]
                                n_out = len(needed)
                                loads = defaultdict(int)
                                for c in needed:
                                    loads[c % banks] += 1
                                rounds = max(ceil(n_out, lanes), max(loads.values(), default=0))
                                empty = n_out == 0 or n_in == 0
                                takes = 1 if empty else rounds * n_in + p["backward.encode_cycles"]
                                at_group = min(range(len(free)), key=free.__getitem__)
                                free[at_group] += takes
                                made += n_out
                                n["items"] += 1
                                n["items_empty"] += empty
                                n["operations_offered"] += h * valid
                                n["operations_needed"] += n_out * n_in
                                n["skipped_by_gradient"] += n_out * (valid - n_in)
                                n["skipped_by_mask"] += (h - n_out) * valid
                                n["lane_slots"] += rounds * n_in * lanes
                                n["gradient_reads"] += rounds * n_in
                                n["mask_read_bits"] += h if masked else 0
                                n["psum_reads"] += n_out if row_tile > 0 else 0
                                n["psum_writes"] += n_out
                    n["additions"] = n["multiplications"] = n["weight_reads"] = n[
                        "operations_needed"
                    ]
                    tile.run = max(free)
                    on_chip = i > 0 and "spike" in kept[i - 1]
                    if row_tile == len(lines) - 1 and not on_chip:
                        tile.store_bytes += v * made
        return last

    def update(self, part, i, gradients):
        layer, p, v = self.layers[i], self.p, self.v
        rows = self.rows(part)[::-1]
        most = p["update.spikes_bytes"] // 2 // layer.image_bytes
        half = p["update.psum_bytes"] // 2
        stay = layer.n * layer.k * 4 <= half
        depth_size = layer.k if stay else half // (4 * p["update.columns"])
        depths = [(at, min(depth_size, layer.k - at)) for at in range(0, layer.k, depth_size)]
        inputs, reach = p["update.inputs"], p["update.rows"] * p["update.inputs"]
        drain = math.ceil(math.log2(p["update.rows"])) + 2
        first_of_pass = True
        tile = None
        for block in cut(len(rows), 1, len(rows), most):
            images = [rows[image] for image in block.images]
            first_of_block = True
            fresh = part == 0 and block.index == 0
            for column, (group, channel, c) in enumerate(self.columns(layer, p["update.columns"])):
                bits = np.concatenate([layer.windows(row, group) for row in images], axis=1)
                gradient = np.concatenate(
                    [layer.nonzero[row, :, channel : channel + c] for row in images]
                )
                everything = len(gradient)
                chosen = np.arange(everything)
                if p["update.compact"]:
                    chosen = chosen[gradient.any(axis=1)]
                tiles = [chosen[at : at + reach] for at in range(0, len(chosen), reach)] or [chosen]
                for depth, (k_at, kappa) in enumerate(depths):
                    for row_tile, positions in enumerate(tiles):
                        m = len(positions)
                        tile = self.emit(Tile(4, 6, part, i, block.index, column, row_tile, depth))
                        tile.data.append(gradients[block.images[-1]])
                        n = tile.count
                        own = bits[:, positions, k_at : k_at + kappa]
                        own_gradient = gradient[positions]
                        if first_of_block and not self.inputs_on_chip(part, i):
                            tile.load_bytes += layer.image_bytes * len(images)
                            n["spike_write_bits"] = 8 * layer.image_bytes * len(images)
                        if "current" not in self.resident[part][i]:
                            if p["compressed_gradients"]:
                                tile.load_bytes += ceil(m * c, 8) + v * int(own_gradient.sum())
                            else:
                                tile.load_bytes += m * c * v
                        if stay:
                            if first_of_pass and part > 0:
                                tile.load_bytes += layer.n * layer.k * 4
                        else:
                            if row_tile == 0 and not fresh:
                                tile.load_bytes += kappa * c * 4
                            if row_tile == len(tiles) - 1:
                                tile.store_bytes += kappa * c * 4
                        first_of_block = first_of_pass = False
                        left_out = everything - len(chosen) if row_tile == 0 else 0
                        n["operations_offered"] = (m + left_out) * layer.q * kappa * c
                        n["skipped_by_gradient"] = left_out * layer.q * kappa * c
                        if m == 0:
                            tile.build, tile.run = 0, 1
                            continue
                        ii = max(
                            1,
                            ceil(c, p["update.psum_banks"]),
                            ceil(m, p["update.spikes_banks"] * 32),
                        )
                        tile.build = ceil(m * c, p["update.gradients_banks"])
                        if p["update.tables"]:
                            tile.build = max(2**inputs - 1, tile.build)
                            tile.run = kappa * layer.q * ii + drain
                        else:
                            tile.run = kappa * layer.q * ii * inputs + drain
                        r = ceil(m, inputs)
                        padded = np.zeros((layer.q, r * inputs, kappa), bool)
                        padded[:, :m] = own
                        indices = int(padded.reshape(layer.q, r, inputs, kappa).any(axis=2).sum())
                        n["operations_needed"] = int(
                            (own.sum(axis=(0, 2)) * own_gradient.sum(axis=1)).sum()
                        )
                        self.count_tables(
                            n,
                            p["update.tables"],
                            inputs,
                            r,
                            c,
                            kappa * layer.q * r,
                            indices,
                            int(own.sum()),
                        )
                        n["spike_read_bits"] = m * layer.q * kappa
                        n["gradient_reads"] = n["gradient_writes"] = m * c
                        first_visit = fresh and row_tile == 0
                        n["psum_reads"] = kappa * c * (layer.q - first_visit)
                        n["psum_writes"] = kappa * c * layer.q
        if stay:
            tile.store_bytes += layer.n * layer.k * 4
        return tile

    # ---- program order and schedules

    def build_program(self):
        p = self.p
        batch = p["schedule"] == "batch"
        starts, ends, recomputes, forwards = [], [], [], []
        last = len(self.layers) - 1
        for part in range(self.parts):
            begin = len(self.program)
            soma = None
            for i in range(len(self.layers)):
                soma = self.forward(part, i, False, [soma] if i else [])
            starts.append(self.program[begin])
            forwards.append(self.program[begin:])
            last_backward = soma
            updates, final, again = [], {}, []
            for i in range(last, -1, -1):
                layer = self.layers[i]
                if layer.nonzero is None:
                    continue
                before = [last_backward]
                if p["membrane"] == "recompute" and layer.neurons and layer.membrane:
                    begin = len(self.program)
                    recomputed = self.forward(part, i, True, before)
                    again += self.program[begin:]
                    before = [*before, recomputed]
                gradients = self.gradient(
                    part, i, before, updates[-2] if len(updates) > 1 else None
                )
                final[2] = gradients[self.t * self.samples(part) - 1]
                if layer.backward:
                    final[3] = last_backward = self.backward(part, i, gradients)
                if layer.update:
                    final[4] = self.update(part, i, gradients)
                    updates.append(final[4])
            ends.append(list(final.values()))
            recomputes.append(again)

        for part in range(self.parts):
            if p["schedule"] == "layer" and part > 0:
                starts[part].order += ends[part - 1]
            if batch and part > 1:
                starts[part].order += ends[part - 2]
        if p["schedule"] == "serial":
            for before, tile in zip(self.program, self.program[1:], strict=False):
                tile.order.append(before)

        order = self.program
        if batch:
            front = list(forwards[0])
            for part in range(self.parts):
                front += forwards[part + 1] if part + 1 < self.parts else []
                front += recomputes[part]
            order = front + [tile for tile in self.program if tile.engine > 1]
        for tile in order:
            self.queues[tile.engine].append(tile)
        place = {id(tile): at for at, tile in enumerate(self.queues[0])}
        sets = sorted(self.sets, key=lambda entry: place[id(entry[0])])
        for (_, soma_before), (first, _) in zip(sets, sets[2:], strict=False):
            first.order.append(soma_before)

    # ---- tiles and time

    def settle(self):
        """Everything that is known without another transfer; transfers that wait for the bus."""
        waiting = []
        progress = True
        while progress:
            progress = False
            waiting = []
            for e, queue in enumerate(self.queues):
                for at in range(self.settled[e], len(queue)):
                    tile = queue[at]
                    one = queue[at - 1] if at > 0 else None
                    two = queue[at - 2] if at > 1 else None

                    def of(other, name):
                        return 0 if other is None else getattr(other, name)

                    def known(name, values, tile=tile):
                        nonlocal progress
                        if getattr(tile, name) is None and None not in values:
                            setattr(tile, name, max(values, default=0))
                            progress = True

                    data = [d.done for d in tile.data]
                    known("ready", data + [o.end for o in tile.order])
                    known("issue", [*data, of(one, "issue"), of(two, "end")])
                    if tile.issue is not None and tile.loaded is None:
                        if tile.load_bytes:
                            waiting.append((tile.issue, e, 0, at, tile))
                        else:
                            known("loaded", [tile.issue])
                    if tile.built is None:
                        values = [of(one, "built"), of(two, "end"), tile.loaded]
                        if None not in values:
                            known("built", [max(values) + tile.build])
                    known(
                        "start",
                        [of(one, "end"), tile.ready, tile.loaded, of(two, "done"), tile.built],
                    )
                    if tile.start is not None:
                        known("end", [tile.start + tile.run])
                    known("store", [tile.end, of(one, "store")])
                    if tile.store is not None and tile.done is None:
                        if tile.store_bytes:
                            waiting.append((tile.store, e, 1, at, tile))
                        else:
                            known("done", [of(one, "done"), tile.store])
                    if tile.done is not None and at == self.settled[e]:
                        self.settled[e] += 1
                    if tile.issue is None:
                        break
        return waiting

    def run(self):
        self.build_program()
        p = self.p
        bus = busy = 0
        self.settled = [0] * len(ENGINES)
        while waiting := self.settle():
            issue, _, kind, _, tile = min(waiting, key=lambda entry: entry[:4])
            moved = tile.store_bytes if kind else tile.load_bytes
            cycles = ceil(self.bursts(moved) * p["dram.burst_bytes"], p["dram.bytes_per_cycle"])
            bus = max(bus, issue + p["dram.latency_cycles"]) + cycles
            busy += cycles
            if kind:
                tile.done = bus
            else:
                tile.loaded = bus
        assert all(tile.done is not None for queue in self.queues for tile in queue)
        return self.result(busy)

    def bursts(self, moved):
        return ceil(moved, self.p["dram.burst_bytes"])

    def result(self, busy):
        names = _core.counter_names()
        counters = np.zeros((len(self.layers), len(PASSES), len(names)), np.int64)
        cycles = max((tile.done for queue in self.queues for tile in queue), default=0)
        tails, tiles = [], []
        for queue in self.queues:
            before = None
            lines = []
            for at, tile in enumerate(queue):
                n = tile.count
                left = before.end if before else 0
                t1 = max(left, tile.ready)
                t2 = max(t1, tile.loaded)
                t3 = max(t2, queue[at - 2].done if at > 1 else 0)
                n["tiles"] = 1
                n["run_cycles"] = tile.run
                n["idle_cycles"], n["stalled_load_cycles"] = t1 - left, t2 - t1
                n["stalled_store_cycles"], n["building_cycles"] = t3 - t2, tile.start - t3
                for kind, moved in (("load", tile.load_bytes), ("store", tile.store_bytes)):
                    n[f"{kind}s"] = int(moved > 0)
                    n[f"{kind}_bytes"] = moved
                    n[f"{kind}_bursts"] = self.bursts(moved)
                for name, value in n.items():
                    counters[tile.layer, tile.passes, names.index(name)] += value
                lines.append([
                    tile.passes, tile.part, tile.layer,
                    tile.block, tile.column, tile.row, tile.depth,
                    tile.load_bytes, tile.store_bytes, tile.ready, tile.issue, tile.loaded,
                    tile.built, tile.start, tile.end, tile.store, tile.done,
                ])  # fmt: skip
                before = tile
            tails.append(cycles - (before.end if before else 0))
            tiles.append(np.array(lines, np.int64).reshape(-1, 17))
        bits = {"spikes": 1, "mask": 2, "current": 4, "spike": 8, "membrane": 16}
        return {
            "cycles": cycles,
            "dram_busy_cycles": busy,
            "tail_idle_cycles": np.array(tails),
            "counters": counters,
            "resident": np.array([sum(bits[name] for name in kept) for kept in self.resident[0]]),
            "tiles": tiles,
        }


def simulate(case):
    """What `_core.simulate` should give for this case."""
    return Gold(case).run()
