"""Maps: groups become clusters, points lie apart, and the picture is there."""

from __future__ import annotations

import csv
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from tunewright.errors import SettingsError
from tunewright.retrieval import mapping
from tunewright.retrieval.documents import Document
from tunewright.retrieval.mapping import Sample, check_picture, map_of, write_map

SIZES = (50, 30, 20)


@pytest.fixture(scope="module")
def grouped():
    """Texts in three groups of unlike sizes, with their vectors and groups."""
    rng = np.random.default_rng(0)
    groups_R = np.repeat(np.arange(3), SIZES)
    centres = np.eye(3, 8) * 3
    vectors_RD = (centres[groups_R] + rng.normal(0, 0.3, (100, 8))).astype(np.float32)
    return [Document(f"d{n}", f"text {n}") for n in range(100)], vectors_RD, groups_R


def test_groups_are_found_without_saying_how_many_the_largest_first(grouped):
    documents, vectors_RD, groups_R = grouped
    found = map_of(documents, vectors_RD, axes="pca")

    assert found.sizes == list(SIZES)
    assert adjusted_rand_score(groups_R, found.clusters_R) == 1.0


def test_typical_texts_are_the_nearest_to_the_middle_of_their_cluster(grouped):
    documents, vectors_RD, _ = grouped
    found = map_of(documents, vectors_RD, axes="pca")
    unit_RD = vectors_RD / np.linalg.norm(vectors_RD, axis=1, keepdims=True)
    for cluster, place in enumerate(found.typical):
        mine = np.flatnonzero(found.clusters_R == cluster)
        centre_D = unit_RD[mine].mean(0)
        assert place == mine[np.linalg.norm(unit_RD[mine] - centre_D, axis=1).argmin()]


def test_the_axes_are_the_two_principal_components(grouped):
    documents, vectors_RD, _ = grouped
    found = map_of(documents, vectors_RD, axes="pca")
    unit_RD = vectors_RD / np.linalg.norm(vectors_RD, axis=1, keepdims=True)
    expected = PCA(2, svd_solver="full").fit_transform(unit_RD)

    assert found.method == "principal components"
    np.testing.assert_allclose(np.abs(found.points_R2), np.abs(expected), atol=1e-4)


def test_umap_keeps_groups_together(grouped):
    if find_spec("umap") is None:
        pytest.skip("umap-learn is not installed")
    documents, vectors_RD, groups_R = grouped
    found = map_of(documents, vectors_RD)

    assert found.method == "UMAP"
    near_R1 = np.linalg.norm(found.points_R2[:, None] - found.points_R2, axis=2).argsort(1)[:, 1]
    assert (groups_R[near_R1] == groups_R).mean() > 0.95
    np.testing.assert_array_equal(map_of(documents, vectors_RD).points_R2, found.points_R2)


@pytest.mark.parametrize(
    ("rows", "method"), [(16, "UMAP"), (40, "UMAP"), (15, "principal components")]
)
@pytest.mark.parametrize("kind", ["equal", "zeros among them", "pairs"])
def test_umap_draws_texts_that_are_alike_and_leaves_few_to_the_components(rows, method, kind):
    pytest.importorskip("umap")
    made = np.random.default_rng(1).normal(size=(rows, 8)).astype(np.float32)
    vectors_RD = {
        "equal": np.ones((rows, 8), np.float32),
        "zeros among them": np.concatenate([np.zeros((3, 8), np.float32), made[3:]]),
        "pairs": made.repeat(2, axis=0)[:rows],
    }[kind]
    found = map_of([Document(f"{n}", "t") for n in range(rows)], vectors_RD, 1, axes="umap")

    assert found.method == method
    assert found.points_R2.shape == (rows, 2)
    assert np.isfinite(found.points_R2).all()


def test_umap_that_is_not_installed_is_refused_and_not_missed(grouped, monkeypatch):
    documents, vectors_RD, _ = grouped
    monkeypatch.setattr(mapping, "find_spec", lambda name: None)

    assert map_of(documents, vectors_RD).method == "principal components"
    with pytest.raises(SettingsError) as caught:
        map_of(documents, vectors_RD, axes="umap")
    assert str(caught.value) == (
        'axes: the package umap-learn is not installed. Run: pip install "tunewright[map]"'
    )


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_map_of_few_texts_is_drawn(number, tmp_path):
    vectors_RD = np.eye(number, 4, dtype=np.float32)
    found = map_of([Document(f"{n}", "t") for n in range(number)], vectors_RD)

    assert sum(found.sizes) == number
    assert found.points_R2.shape == (number, 2)
    write_map(found, tmp_path / "m.png")


def test_equal_texts_are_one_cluster():
    found = map_of([Document(f"{n}", "t") for n in range(5)], np.ones((5, 4), np.float32))
    assert found.sizes == [5]


@pytest.mark.parametrize("number", [0, -1, 101])
def test_more_clusters_than_texts_are_refused(grouped, number):
    documents, vectors_RD, _ = grouped
    with pytest.raises(SettingsError) as caught:
        map_of(documents, vectors_RD, number)
    assert str(caught.value) == f"--clusters: it is {number}. There are 100 different texts."


def test_the_picture_and_its_points_are_written(grouped, tmp_path):
    documents, vectors_RD, _ = grouped
    found = map_of(documents, vectors_RD, axes="pca")
    for name, head in (("m.png", b"\x89PNG"), ("m.pdf", b"%PDF"), ("m.svg", b"<?xml")):
        points = write_map(found, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(head)
    assert points == tmp_path / "m.points.csv"
    with points.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["id"] for row in rows] == [document.key for document in documents]
    assert [int(row["cluster"]) for row in rows] == found.clusters_R.tolist()
    assert [float(row["x"]) for row in rows] == pytest.approx(found.points_R2[:, 0].tolist())


@pytest.mark.parametrize("name", ["m.gif", "m", "m.PNGX"])
def test_other_pictures_are_refused(name, tmp_path):
    with pytest.raises(SettingsError, match=r"The file has to end in one of \.png, \.svg, \.pdf"):
        check_picture(tmp_path / name)


def test_a_sample_takes_all_of_few_and_any_of_many():
    few = Sample(size=10)
    assert list(few.watch([("d", n) for n in range(7)])) == few.rows

    taken = np.zeros(100)
    for seed in range(300):
        many = Sample(size=10)
        many._random.seed(seed)
        assert len(list(many.watch([("d", n) for n in range(100)]))) == many.num_seen == 100
        for _, n in many.rows:
            taken[n] += 1
    # Each is taken in 30 of 300 draws, give or take 5.2; the beginning no more often than the end.
    assert taken.sum() == 3000
    assert taken.min() > 10
    assert taken.max() < 50
    assert abs(taken[:50].mean() - taken[50:].mean()) < 3
