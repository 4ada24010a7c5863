"""Published sets of mathematical problems: which columns they have and how they write their answers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rl4llm.checks import UsageError
from rl4llm.data.answers import AnswerForm
from rl4llm.data.columns import Keys
from rl4llm.data.files import file_records
from rl4llm.data.hugging_face import check_dataset, dataset_source
from rl4llm.data.json_records import Record
from rl4llm.data.record_task import RecordTask, Repeats
from rl4llm.data.sources import Source, check_files, file_sources
from rl4llm.data.table_records import dataset_records
from rl4llm.rewards import MathVerify, NumericMatch, Reward


@dataclass(frozen=True, kw_only=True)
class PublishedSet(RecordTask):
    """A data set as it was published, from the copy at hand.

    Either `folder` holds the data set, or `train`, `validation` and `test` are Parquet or JSON-lines files. With a
    folder they are the names of splits, by default those that were published. See
    [RecordTask][rl4llm.data.record_task.RecordTask] for the other fields.

    Args:
        folder: Folder of the data set, as it was downloaded or as `save_to_disk` wrote it.
        subset: Configuration of the data set, or a folder within its folder; by default the published one, where the
            folder has it.
        train: File of training prompts, or the split of the folder.
        reward: The verifier.
    """

    reward: Reward = field(default_factory=MathVerify)
    folder: str | None = None
    subset: str | None = None
    train: str | None = None
    training_split: ClassVar[str | None] = "train"
    held_out_split: ClassVar[str | None] = None
    published_subset: ClassVar[str | None] = None
    whence: ClassVar[str] = "folder, or train, validation or test to a file"

    def __post_init__(self) -> None:
        if self.folder is not None:
            self._name_splits()
        super().__post_init__()

    def _name_splits(self) -> None:
        published = {"train": self.training_split, "test": self.held_out_split, "validation": self.held_out_split}
        for split, part in published.items():
            if getattr(self, split) is None and not getattr(self, f"{split}_share", 0.0):
                object.__setattr__(self, split, part)

    def check_place(self, field: str, place: str) -> None:
        """Raise unless the folder, or the file where there is none, exists."""
        name = type(self).__name__
        if self.folder is None:
            check_files(name, field, place, ".parquet")
        elif Path(self.folder).is_dir():
            check_dataset(name, self.folder)
        else:
            raise UsageError(f"{name}: folder '{self.folder}' does not exist; pass the folder of the data set.")

    def sources(self, place: str) -> tuple[Source, ...]:
        """Return the keys of the files, or that of the split."""
        name = type(self).__name__
        if self.folder is None:
            return file_sources(name, place)
        published = self.published_subset and (Path(self.folder) / self.published_subset).is_dir()
        return (
            dataset_source(name, self.folder, self.subset or (self.published_subset if published else None), place),
        )

    def records(self, source: Source, keys: Keys) -> Iterator[Record]:
        """Yield one record per problem."""
        return dataset_records(source, keys) if source.part else file_records(source, keys)


@dataclass(frozen=True, kw_only=True)
class GSM8K(PublishedSet):
    """GSM8K: 7,473 training and 1,319 test problems of grade school, whose solutions end with `#### 42`.

    Columns `question` and `answer`, splits train and test (Cobbe et al., 2021, arXiv:2110.14168; openai/gsm8k). The
    answer column serves as the demonstration.
    """

    reward: Reward = NumericMatch()  # noqa: RUF009
    prompt_key: str = "question"
    answer_form: AnswerForm = "hashes"
    demonstration_key: str = "answer"
    published_subset: ClassVar[str | None] = "main"
    held_out_split: ClassVar[str | None] = "test"


@dataclass(frozen=True, kw_only=True)
class MATH500(PublishedSet):
    """MATH-500: 500 test problems of MATH (Lightman et al., 2023, arXiv:2305.20050; HuggingFaceH4/MATH-500).

    Columns `problem`, `solution` and `answer`; one split, test. For MATH itself, whose answers stand in the solutions,
    set `answer_key="solution"` and `answer_form="boxed"`.
    """

    prompt_key: str = "problem"
    demonstration_key: str = "solution"
    training_split: ClassVar[str | None] = None
    held_out_split: ClassVar[str | None] = "test"


@dataclass(frozen=True, kw_only=True)
class DeepMath103K(PublishedSet):
    """DeepMath-103K: 103,022 problems to train on (He et al., 2025, arXiv:2504.11456; zwhe99/DeepMath-103K).

    Columns `question`, `final_answer` and `r1_solution_1`; one split, train, so that `validation_share` holds some out.
    """

    prompt_key: str = "question"
    answer_key: str | None = "final_answer"
    demonstration_key: str = "r1_solution_1"


@dataclass(frozen=True, kw_only=True)
class DAPOMath17k(PublishedSet):
    """DAPO-Math-17k: problems with whole numbers as answers (Yu et al., 2025, arXiv:2503.14476).

    The format of verl: a chat in `prompt`, the answer in `reward_model.ground_truth`; one split, train
    (BytedTsinghua-SIA/DAPO-Math-17k). That file has each problem about a hundred times; repetitions are left out.
    """

    reward: Reward = NumericMatch()  # noqa: RUF009
    answer_key: str | None = "reward_model.ground_truth"
    repeats: Repeats = "drop"


@dataclass(frozen=True, kw_only=True)
class AIME(PublishedSet):
    """AIME: problems whose answers are whole numbers from 0 to 999.

    Columns `problem`, `Problem` or `question` and `answer` or `Answer`, in a split test or train
    (HuggingFaceH4/aime_2024, Maxwell-Jia/AIME_2024, math-ai/aime25, opencompass/AIME2025).
    """

    reward: Reward = NumericMatch()  # noqa: RUF009
    prompt_key: str = "problem|Problem|question"
    answer_key: str | None = "answer|Answer"
    demonstration_key: str = "solution|Solution"
    training_split: ClassVar[str | None] = None
    held_out_split: ClassVar[str | None] = "test|train"


@dataclass(frozen=True, kw_only=True)
class AMC(PublishedSet):
    """AMC: problems of the American Mathematics Competitions, whose answers are numbers.

    Columns `problem` or `question` and `answer`, in a split test or train (AI-MO/aimo-validation-amc, math-ai/amc23).
    """

    reward: Reward = NumericMatch()  # noqa: RUF009
    prompt_key: str = "problem|question"
    training_split: ClassVar[str | None] = None
    held_out_split: ClassVar[str | None] = "test|train"


@dataclass(frozen=True, kw_only=True)
class OlympiadBench(PublishedSet):
    """OlympiadBench: open-ended problems in text alone, in English (He et al., 2024, arXiv:2402.14008).

    Columns `question` and `final_answer`, a list of one or several; one split, train, in a subset of its own
    (Hothan/OlympiadBench).
    """

    prompt_key: str = "question"
    answer_key: str | None = "final_answer"
    answer_form: AnswerForm = "list"
    published_subset: ClassVar[str | None] = "OE_TO_maths_en_COMP"
    training_split: ClassVar[str | None] = None
    held_out_split: ClassVar[str | None] = "test|train"
