"""The front of a run's full runs: one row for each network that was trained along it. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from search.errors import RunError, SpecError
from search.fidelity import measured_on, standard_error
from search.formatting import Interval
from search.front import Point, front_of, knee, point
from search.promotions import Promotion, finalists, finished, full_runs_of, mean_score
from search.run_folder import RunFolder, read_facts
from search.spec import StudySpec
from search.uncertainty import accuracy_interval
from train_core.specs import ResNetSpec

Networks = Sequence[Promotion]  # the full runs of one network, one for each seed


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network among those that were trained along the front. Scores are shares of 1."""

    point: Point[Networks]
    validation: Interval | None  # with its 95 % interval; None: the number of images is not known
    test: Interval | None  # None: not tested, or not known
    beaten_by: int | None  # the trial of a network that is at least as good and costs no more; None: on the front
    same_as: int | None  # the trial before it on the front that the validation images do not distinguish from it
    is_knee: bool

    @property
    def runs(self) -> Networks:
        """Its full runs that did not diverge."""
        return [run for run in self.point.of if run.diverged is None]

    @property
    def trial(self) -> int:
        """The number of its trial."""
        return self.point.of[0].trial

    @property
    def remark(self) -> str:
        """A remark on the network, for its table row."""
        if self.beaten_by is not None:
            return f"beaten by trial {self.beaten_by}"
        said = ["knee"] if self.is_knee else []
        return "; ".join([*said, f"not told from trial {self.same_as}"] if self.same_as is not None else said)


def image_size(folder: RunFolder) -> tuple[int, int] | None:
    """Height and width of a run's images, in pixels; None: not known."""
    facts = read_facts(folder)
    return facts.data.size if facts is not None else None


def check_front(folder: RunFolder, spec: StudySpec) -> tuple[int, int]:
    """Check that a run has a front, and return the size of its images.

    Raises:
        SpecError: it has none.
        RunError: the size of its images is not known.

    """
    if not spec.front:
        raise SpecError(
            f"run {folder.name!r} has no front: leave out --front, or search with `search run --front params` and "
            "another --name"
        )
    image = image_size(folder)
    if image is None:
        raise RunError(f"{folder.facts} is missing or damaged: `search run` with the same study writes it again")
    return image


def rows_of_front(
    spec: StudySpec, image: tuple[int, int], promotions: Sequence[Promotion], images: int | None
) -> list[Row]:
    """The longest full runs, a row for each network, the smallest first.

    `image` is the height and width of the images; `images` is the number of images that scores are measured on
    (`fidelity.measured_on`); None: not known. Two neighbours on the front are not distinguished if they differ by at
    most two standard errors of their difference.
    """
    networks: list[Networks] = list(finalists(promotions))
    points = [point(spec, image, _network, mean_score, runs) for runs in networks]
    front = front_of(points)
    at_knee = knee(front)
    rows = []
    for each in sorted(points, key=lambda each: (each.size, each.score)):
        place = front.index(each) if each in front else None
        before = front[place - 1] if place else None
        # A network as good and as large as a dominated one is dominated as well.
        beaten = next((other for other in front if _no_worse(other, each)), None) if place is None else None
        validation = [run.val_score for run in each.of if run.val_score is not None]
        tested = [run.test_score for run in each.of if run.test_score is not None]
        rows.append(
            Row(
                point=each,
                validation=accuracy_interval(validation, images) if images and validation else None,
                test=_tested(tested, each.of, images),
                beaten_by=beaten.of[0].trial if beaten is not None else None,
                same_as=before.of[0].trial if before is not None and _are_one(before, each, images) else None,
                is_knee=each is at_knee,
            )
        )
    return rows


def _no_worse(one: Point[Networks], other: Point[Networks]) -> bool:
    return one.beats(other) or (one.score, one.costs) == (other.score, other.costs)


def _network(runs: Networks) -> ResNetSpec:
    return runs[0].network


def _tested(scores: Sequence[float], runs: Networks, images: int | None) -> Interval | None:
    """The accuracy on test with its interval; the interval of a balanced accuracy is not known, so it is left out."""
    number = next((run.test_images for run in runs if run.test_images), 0)
    if not scores or not number or runs[0].score == "balanced" or not images:
        return None
    return accuracy_interval(scores, number)


def _are_one(one: Point[Networks], other: Point[Networks], images: int | None) -> bool:
    if not images:
        return False
    return abs(other.score - one.score) <= 2 * standard_error((one.score + other.score) / 2, images)


def runs_of_front(folder: RunFolder, spec: StudySpec) -> list[Promotion]:
    """The full run that represents each network on the front of full runs, the smallest first: its best seed.

    Raises:
        SpecError: the run has no front.
        RunError: it has no full run.

    """
    image = check_front(folder, spec)
    full_runs_of(folder, None)
    rows = rows_of_front(spec, image, finished(folder), measured_on(folder, spec.scored_by))
    return [max(row.runs, key=lambda run: run.ranking_score) for row in rows if row.beaten_by is None]
