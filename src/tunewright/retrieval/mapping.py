"""A map of texts: what is alike lies together, in clusters, on two axes.

    found = map_of([document, ...], vectors_RD)
    write_map(found, Path("map.png"))           # the picture, and map.points.csv beside it

Clusters are found by k-means, the axes by UMAP (McInnes et al. 2018) where umap-learn is installed,
and else, or where it is asked for, by the two principal components (PCA).

Shape letters: R texts, D numbers of a vector.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from tunewright.data import write_rows
from tunewright.data.writers import replacing
from tunewright.errors import SettingsError, listed
from tunewright.retrieval.documents import Document
from tunewright.retrieval.embedder import of_unit_length

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

Axes = Literal["auto", "pca", "umap"]

PICTURES = (".png", ".svg", ".pdf")
MAX_POINTS = 20_000
"""Texts on a map: more can neither be told apart nor be clustered in memory that stays flat."""

MOST_CLUSTERS = 12
JUDGED_POINTS = 2_000  # from which the number of clusters is chosen
SHOWN_CHARACTERS = 200
LEAST_OF_UMAP = 16  # texts: it looks at the 15 neighbours of each


@dataclass
class Sample:
    """At most `size` texts, each equally likely, from a stream of unknown length.

    Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
    """

    size: int = MAX_POINTS
    rows: list[tuple[Document, Any]] = field(default_factory=list)
    num_seen: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def watch(self, rows: Iterable[tuple[Document, Any]]) -> Iterator[tuple[Document, Any]]:
        """Passes rows on, and keeps some."""
        for row in rows:
            self.num_seen += 1
            if len(self.rows) < self.size:
                self.rows.append(row)
            elif (place := self._random.randrange(self.num_seen)) < self.size:
                self.rows[place] = row
            yield row


@dataclass(frozen=True)
class Map:
    """Texts with their clusters, counted from 0 for the largest, and their places, (R, 2)."""

    documents: Sequence[Document]
    clusters_R: Integers
    points_R2: Floats
    method: str
    typical: Sequence[int]

    @property
    def sizes(self) -> list[int]:
        """How many texts each cluster has."""
        return np.bincount(self.clusters_R, minlength=len(self.typical)).tolist()


def map_of(
    documents: Sequence[Document],
    vectors_RD: Floats,
    num_clusters: int | None = None,
    axes: Axes = "auto",
) -> Map:
    """Returns the map of texts by their vectors; `typical` are the texts nearest to their centres.

    Without `num_clusters`, 2 to 12 are tried, and those taken that lie most apart (Rousseeuw 1987,
    "Silhouettes"). `axes` "auto" is UMAP where umap-learn is installed, and else PCA. Raises
    SettingsError for more clusters than texts, and for UMAP where it is not installed.
    """
    check_axes(axes)
    unit_RD = of_unit_length(vectors_RD)
    num_distinct = len(np.unique(unit_RD, axis=0))
    if num_clusters is not None and not 1 <= num_clusters <= num_distinct:
        raise SettingsError(
            "--clusters", f"it is {num_clusters}", f"There are {num_distinct} different texts."
        )
    found = _fitted(unit_RD, num_clusters or _best_number(unit_RD, num_distinct))
    order = np.argsort(-np.bincount(found.labels_), kind="stable")
    clusters_R = np.argsort(order)[found.labels_]
    distance_RK = found.transform(unit_RD)[:, order]
    method, points_R2 = _projected(unit_RD, axes)
    return Map(documents, clusters_R, points_R2, method, distance_RK.argmin(0).tolist())


def _fitted(unit_RD: Floats, num_clusters: int) -> KMeans:
    return KMeans(num_clusters, n_init=4, random_state=0).fit(unit_RD)


def _best_number(unit_RD: Floats, num_distinct: int) -> int:
    sample_RD = unit_RD[:: max(1, len(unit_RD) // JUDGED_POINTS)]
    most = min(MOST_CLUSTERS, num_distinct - 1, len(sample_RD) - 1)
    scores = {}
    for number in range(2, most + 1):
        labels = _fitted(sample_RD, number).labels_
        if 1 < len(np.unique(labels)) < len(labels):
            scores[number] = silhouette_score(sample_RD, labels)
    return max(scores, key=lambda number: scores[number], default=1)


def check_axes(axes: str) -> None:
    """Raises SettingsError for axes that there are not, or not here."""
    if axes not in get_args(Axes):
        raise SettingsError("axes", f'it is "{axes}"', f"It is one of {listed(get_args(Axes))}.")
    if axes == "umap" and find_spec("umap") is None:
        raise SettingsError(
            "axes", "the package umap-learn is not installed", "",
            'Run: pip install "tunewright[map]"',
        )  # fmt: skip


def _projected(unit_RD: Floats, axes: Axes) -> tuple[str, Floats]:
    """Returns how the points were found, and the points (R, 2)."""
    is_there = axes != "pca" and find_spec("umap") is not None
    if is_there and len(unit_RD) >= LEAST_OF_UMAP:
        return "UMAP", _umap(unit_RD)
    points_R2 = np.zeros((len(unit_RD), 2), np.float32)
    if (unit_RD != unit_RD[0]).any():  # points that are all one have no axes
        num_axes = min(2, *unit_RD.shape)
        points_R2[:, :num_axes] = PCA(num_axes, random_state=0).fit_transform(unit_RD)
    return "principal components", points_R2


def _umap(unit_RD: Floats) -> Floats:
    with warnings.catch_warnings():
        # That there is no TensorFlow, which is not needed, and that a seed costs it its threads.
        warnings.simplefilter("ignore")
        import umap

        found = umap.UMAP(metric="cosine", random_state=0).fit_transform(unit_RD)
    return np.asarray(found, np.float32)


def check_picture(path: Path) -> None:
    """Raises SettingsError for a file that a map is not drawn to."""
    if path.suffix not in PICTURES:
        raise SettingsError(
            str(path), f'a map is not drawn as "{path.suffix}"',
            f"The file has to end in one of {', '.join(PICTURES)}.",
        )  # fmt: skip


def write_map(found: Map, picture: str | PathLike[str]) -> Path:
    """Draws the map, and writes its points beside it; returns where those are.

    `map.points.csv` has a row for each point: id, x, y, cluster, and the beginning of the text.
    Raises SettingsError for another picture than .png, .svg or .pdf.
    """
    path = Path(picture)
    check_picture(path)
    with replacing(path) as stream:
        _figure(found).savefig(stream.buffer, format=path.suffix[1:], dpi=150)
    points = path.with_suffix(".points.csv")
    rows = zip(found.documents, found.points_R2.tolist(), found.clusters_R.tolist(), strict=True)
    write_rows(
        (
            {"id": document.key, "x": x, "y": y, "cluster": cluster,
             "text": document.text[:SHOWN_CHARACTERS]}
            for document, (x, y), cluster in rows
        ),
        points,
    )  # fmt: skip
    return points


def _figure(found: Map) -> Any:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab10" if len(found.sizes) <= 10 else "tab20"]
    for cluster, size in enumerate(found.sizes):
        mine_R2 = found.points_R2[found.clusters_R == cluster]
        axes.plot(mine_R2[:, 0], mine_R2[:, 1], "o", markersize=3, alpha=0.7, markeredgewidth=0,
                  color=colours(cluster % colours.N), label=f"{cluster}: {size:,}")  # fmt: skip
    axes.legend(title="cluster: texts", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set(title=f"{len(found.documents):,} texts, {found.method}", xticks=[], yticks=[])
    return figure
