"""Trouble counts when it lasts."""

from __future__ import annotations

from dcdr.fitness import Fitness

H = 10.0


def test_nobody_is_fit_before_a_first_good_look() -> None:
    assert not Fitness().fit(0.0, H)
    assert not Fitness().looked(0.0, ("no leader",)).fit(0.0, H)


def test_trouble_shorter_than_the_hysteresis_does_not_count() -> None:
    well = Fitness().looked(0.0, ())
    troubled = well.looked(4.0, ("no leader",))
    assert troubled.fit(9.9, H)
    assert not troubled.fit(10.0, H)
    assert troubled.looked(9.9, ()).fit(19.8, H)


def test_a_look_that_hangs_makes_unfit_as_well() -> None:
    assert not Fitness().looked(0.0, ()).fit(10.0, H), "the next look has not come back"
