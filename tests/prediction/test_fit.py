"""Costs fitted to timings: against closed forms, brute force, and attempts to look at what is held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.predicting import module

fit: Any = module("fit")
data: Any = module("published.data")
counts: Any = module("counts")
graph: Any = module("graphs.graph")
RNG = np.random.default_rng(1)
TRUE = np.array([2.0, 0.5, 3.0])


def anchors(n: int = 24, noise: float = 0.0, families: int = 8) -> Any:
    features = RNG.uniform(1, 10, (n, 3))
    times = features @ TRUE * np.exp(noise * RNG.standard_normal(n))
    return fit.Anchors(tuple(f"n{i}" for i in range(n)), tuple(f"f{i % families}" for i in range(n)), features, times)


def test_costs_without_noise_are_found_whatever_the_prior_and_its_scale() -> None:
    found = anchors()
    for prior in (np.ones(3), 1e6 * np.ones(3), np.array([1.0, 5.0, 0.2])):
        assert fit.fit(found, prior, 1e-9) == pytest.approx(TRUE, rel=1e-3)


def test_a_strong_prior_gives_its_proportions_at_the_anchors_scale() -> None:
    found = anchors()
    prior = np.array([2.0, 0.5, 3.0]) / 7
    assert fit.fit(found.take(np.arange(24) < 3), prior, 1e6) == pytest.approx(TRUE, rel=1e-6)


def test_costs_are_nonnegative_and_no_other_costs_fit_better() -> None:
    found = anchors(noise=0.05)
    negative = fit.Anchors(
        found.names, found.families, np.c_[found.features, found.features[:, 0] ** 3], found.times_ms
    )
    prior = np.ones(4)
    best = fit.fit(negative, prior, 0.003)
    assert (best >= 0).all()
    scale = np.median(1 / (negative.features / negative.times_ms[:, None] @ prior))

    def loss(costs: Any) -> float:
        errors = np.abs(negative.features @ costs / negative.times_ms - 1)
        huber = np.where(errors <= 0.1, errors**2, 0.2 * errors - 0.01)
        return float(huber.sum() + 0.003 * ((costs / (scale * prior) - 1) ** 2).sum())

    for _ in range(300):
        other = np.maximum(best * np.exp(0.02 * RNG.standard_normal(4)) + 1e-4 * RNG.standard_normal(4), 0)
        assert loss(other) >= loss(best) - 1e-6


def test_one_wild_network_does_not_bend_the_others() -> None:
    found = anchors(noise=0.01)
    wild = found.times_ms.copy()
    wild[5] *= 3
    bent = fit.fit(fit.Anchors(found.names, found.families, found.features, wild), np.ones(3))
    rest = np.arange(24) != 5
    assert np.abs(found.features[rest] @ bent / found.times_ms[rest] - 1).max() < 0.08


def test_a_family_is_predicted_without_its_own_times() -> None:
    found = anchors(noise=0.05)
    family = np.array(found.families) == "f3"
    changed = np.where(family, 10 * found.times_ms, found.times_ms)
    other = fit.Anchors(found.names, found.families, found.features, changed)
    prior = np.ones(3)
    assert fit.held_out(other, prior)[family] == pytest.approx(fit.held_out(found, prior)[family])
    assert fit.held_out(other, prior)[~family] != pytest.approx(fit.held_out(found, prior)[~family], rel=1e-3)


def test_intervals_are_made_without_the_fold_that_they_are_tried_on() -> None:
    """A family that is ten times slower than its kin must be outside: its own miss must not widen its interval."""
    found = anchors(noise=0.02)
    family = np.array(found.families) == "f3"
    slow = fit.Anchors(
        found.names, found.families, found.features, np.where(family, 10 * found.times_ms, found.times_ms)
    )
    covered = fit.validate(slow, np.ones(3)).covered
    assert not covered[family].any()
    assert covered[~family].mean() > 0.6


def test_the_interval_holds_four_new_ratios_of_five() -> None:
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(600):
        ratios = np.exp(0.2 * rng.standard_normal(21))
        inside.append(abs(np.log(ratios[-1])) <= fit.spread(ratios[:-1]))
    assert np.mean(inside) == pytest.approx(0.8, abs=0.045)  # three deviations of 600 draws


@pytest.mark.parametrize(
    ("board", "core", "kernels", "most"),
    [
        ("Raspberry Pi Zero 2 W", "cortex-a53", "cortex-a72", 0.07),
        ("Raspberry Pi 3 Model B+", "cortex-a53", "cortex-a72", 0.07),
        ("Raspberry Pi 4 Model B", "cortex-a72", "cortex-a72", 0.07),
        ("Raspberry Pi 5", "cortex-a76", "cortex-a76", 0.07),
    ],
)
def test_the_raspberry_pis_are_predicted_as_stated(board: str, core: str, kernels: str, most: float) -> None:
    (name,) = {r["board"] for r in data.rows("ncnn_timings.csv") if r["board"].startswith(board)}
    times = data.ncnn_times(name, 1, "all", "float")
    found = fit.validate(data.count_anchors(times, kernels), np.array(counts.PRIORS[core]))
    assert found.mdape <= most
    assert found.rank >= 0.97
    by_classes = fit.validate(data.graph_anchors(times), graph.PRIOR)
    assert by_classes.mdape <= 0.14
    shuffled = dict(zip(times, np.random.default_rng(0).permutation(list(times.values())), strict=True))
    assert fit.validate(data.count_anchors(shuffled, kernels), np.array(counts.PRIORS[core])).mdape > 0.3


def test_every_bound_of_the_documented_table_holds() -> None:
    from benchmarks.studies.accuracy.prediction import bounds
    from edgedistill.plugins import find_plugin

    assert [row for row in bounds(find_plugin("devices", "simulated").validation()) if not row[3]] == []


def test_a_host_measurement_keeps_the_width_and_so_holds_more() -> None:
    """The interval of each network is the one that it has without a host, made without its family."""
    validation = module("workshop.validation")
    (run,) = [run for run in validation.arm_runs(1) if run.device == "jetson-nano-cpu"]
    error, held = validation.with_host(run)
    common = {name: ms for name, ms in run.times.items() if name in data.host_times()}
    plain = fit.validate(data.graph_anchors(common), graph.PRIOR)
    assert error < plain.mdape
    assert held.mean() > plain.covered.mean()
    assert (plain.holds(plain.predicted_ms) == plain.covered).all()
    assert not plain.holds(plain.measured_ms * np.exp(1.01 * plain.reach)).any()


def test_other_runtimes_take_twice_as_long_where_ncnn_computes_in_half_floats() -> None:
    """Each published row lies in the interval that its kind gives."""
    transfer, profile = module("published.transfer"), module("profiles")
    kept = transfer._summary()
    rows = transfer.tried(profile.profiles())
    halves = [row for row in rows if row.kind == "graph_half"]
    assert {row.device for row in halves} == {"Snapdragon 855"}
    assert kept["graph_half"]["factor"] == pytest.approx(2, abs=0.3)
    for row in halves:
        assert row.published_ms <= row.predicted_ms * np.exp(kept["graph_half"]["spread"]) * 1.001
        assert row.published_ms > row.predicted_ms * np.exp(kept["graph"]["spread"])  # what was claimed before
    assert (halves[0].predictor, profile.find("snapdragon-855-plus").half_floats) == ("graph", True)
    assert not profile.find("raspberry-pi-4b").half_floats


def test_counts_are_read_off_hand_made_blocks() -> None:
    arm: Any = __import__("importlib").import_module("edgedistill.devices._arm.counts")
    block = "".join(  # noqa: FLY002 - a word a line
        (
            "4e22cc20",  # fmla v0.4s, v1.4s, v2.4s
            "3dc00000",  # ldr q0, [x0]: 16 bytes
            "ad400400",  # ldp q0, q1, [x0]: 32 bytes
            "4c002800",  # st1 {v0.4s - v3.4s}, [x0]: 64 bytes
            "6e22fc20",  # fdiv v0.4s, v1.4s, v2.4s
            "8b020020",  # add x0, x1, x2
            "f9400000",  # ldr x0, [x0]: no vector
            "4d40c800",  # ld1r {v0.4s}, [x0]: a whole register
        )
    )
    found = counts.features_of_blocks(arm.Blocks({block: 1000, "8b020020": 7}, (50, 40, 30)))
    assert dict(zip(counts.FEATURES, found, strict=True)) == {
        "multiply_adds": 1000,
        "other_instructions": 7000 + 7 + 20 * 1000,
        "loaded_vectors": 4000,
        "stored_vectors": 4000,
        "l1_misses": 40,
        "last_level_misses": 30,
    }


def test_what_is_written_beside_the_tables_follows_from_them() -> None:
    """The shipped transfer.yaml and memory.yaml are those of the shipped tables and profiles."""
    transfer, memory, profile, again = (
        module(n) for n in ("published.transfer", "memory", "profiles", "workshop.remake")
    )
    made = transfer.summarise(transfer.tried(profile.profiles()))
    kept = transfer._summary()
    assert {k: made[k]["rows"] for k in made} == {"counts": 6, "graph": 8, "graph_half": 4}
    for kind, row in made.items():
        assert row["spread"] == pytest.approx(kept[kind]["spread"], rel=1e-3)
    for runtime, anchors in memory.every_anchors().items():
        fresh, shipped = again._model(runtime, anchors, 0.0), memory._models()[runtime]
        assert fresh["costs"] == pytest.approx(shipped["costs"], rel=1e-3)
        assert fresh["mdape"] == pytest.approx(shipped["mdape"], rel=1e-3)
