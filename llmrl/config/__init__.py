"""The schema of every option a person can choose: type, unit, range and one line of meaning each.

Values live in `conf/`; this package holds what they may be. Importing it loads neither torch nor transformers. A value out of
its range raises `UserError` naming the key, the value and what is allowed. Each field's comment is shown by `--help <group>`.
"""

from pathlib import Path

from llmrl.config.checks import ASSETS, PACKAGED, absolute_if_there, packaged
from llmrl.config.commands import (
    AppConfig,
    AskConfig,
    CompareConfig,
    GenerateConfig,
    TrainConfig,
    first_difference,
    option_keys,
    optional_sections,
    plain,
    read_train_config,
    section_type,
)
from llmrl.config.ppo import KLEstimator, KLPlace, PPOConfig, Schedule, ScoreNormalization, ValueHead
from llmrl.config.retrieval import (
    ChunksConfig,
    ContextConfig,
    ContextKind,
    EmbedderConfig,
    EvaluateRetrievalConfig,
    Fusion,
    IngestConfig,
    Language,
    Neighbours,
    PromptingConfig,
    ReadingConfig,
    RetrieverConfig,
    WordsConfig,
)
from llmrl.config.sections import (
    Device,
    EvaluationConfig,
    FinalModel,
    KeepModel,
    ModelConfig,
    Precision,
    PromptsConfig,
    PromptSource,
    RolloutConfig,
    RolloutEngine,
    SweepConfig,
    TrackerConfig,
    TrackerKind,
    TrainerConfig,
    WandbMode,
)
from llmrl.config.trl import GroupConfig, GRPOConfig, RLOOConfig, SFTConfig, TRLConfig

_PACKAGE = Path(__file__).resolve().parent.parent
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""Absolute: a relative config path fails through a console script."""

__all__ = [
    "ASSETS",
    "CONF_DIR",
    "PACKAGED",
    "AppConfig",
    "AskConfig",
    "ChunksConfig",
    "CompareConfig",
    "ContextConfig",
    "ContextKind",
    "Device",
    "EmbedderConfig",
    "EvaluateRetrievalConfig",
    "EvaluationConfig",
    "FinalModel",
    "Fusion",
    "GRPOConfig",
    "GenerateConfig",
    "GroupConfig",
    "IngestConfig",
    "KLEstimator",
    "KLPlace",
    "KeepModel",
    "Language",
    "ModelConfig",
    "Neighbours",
    "PPOConfig",
    "Precision",
    "PromptSource",
    "PromptingConfig",
    "PromptsConfig",
    "RLOOConfig",
    "ReadingConfig",
    "RetrieverConfig",
    "RolloutConfig",
    "RolloutEngine",
    "SFTConfig",
    "Schedule",
    "ScoreNormalization",
    "SweepConfig",
    "TRLConfig",
    "TrackerConfig",
    "TrackerKind",
    "TrainConfig",
    "TrainerConfig",
    "ValueHead",
    "WandbMode",
    "WordsConfig",
    "absolute_if_there",
    "first_difference",
    "option_keys",
    "optional_sections",
    "packaged",
    "plain",
    "read_train_config",
    "section_type",
]
