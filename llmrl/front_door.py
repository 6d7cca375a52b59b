"""What every command shares: compose the config, refuse what is wrong in one line, run, and leave with the right status."""

import gc
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from llmrl.compose import as_meant, config_name, prepare, to_config, typed_of_another_trainer
from llmrl.config import CONF_DIR, TrainConfig
from llmrl.errors import INTERRUPTED, REFUSED, UserError
from llmrl.explain import explain
from llmrl.help import show_help
from llmrl.sweeps.job import in_sweep, run_job
from llmrl.sweeps.plan import resumed_words

Config = TypeVar("Config")


def run(command: str, schema: type[Config], work: Callable[[Config], int | None]) -> int:
    """Compose the config of `command`, call `work` with it as a dataclass, and return the exit status.

    0 done; 2 what the person who typed it can mend, in one line; 130 interrupted; anything else raises.
    """
    gc.set_threshold(50_000)  # a fifth of the time to import torch and transformers would be looking for garbage
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us instead of being printed by Hydra
    statuses: list[int] = []

    def compose(raw: DictConfig) -> Config:
        return to_config(raw, schema, HydraConfig.get().overrides.task)

    def task(raw: DictConfig) -> int:
        """One job; of a sweep, one that may fail without an end to those after it."""
        if schema is TrainConfig and in_sweep():
            return run_job(
                lambda: cast(TrainConfig, compose(raw)), lambda config: work(cast(Config, config)) or 0,
                lambda error: explain(error, schema),
            )  # fmt: skip
        try:
            statuses.append(work(compose(raw)) or 0)
        except (UserError, OmegaConfBaseException) as error:
            if traceback_wanted:
                raise
            print(f"llmrl {command}: {explain(error, schema)}", file=sys.stderr)
            statuses.append(REFUSED)
        finally:
            _drop_empty_folder()
        return statuses[-1]

    task.statuses = statuses  # type: ignore[attr-defined]  # where a sweeper says how its sweep ended
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            show_help(command, schema, [word for word in sys.argv[1:] if not word.startswith("-")])
            return 0
        prepare(command, schema)
        warnings.filterwarnings(
            "ignore", message=r"\s*'hydra/launcher/\w+' is validated against"
        )  # our files, plug-ins' schemas
        sys.argv[1:] = [as_meant(word) for word in resumed_words(sys.argv[1:])]
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name(command))(task)()
        return max(statuses, default=0)
    except KeyboardInterrupt as stop:
        if not stop.args:
            print("llmrl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read has read enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, HydraException, OmegaConfBaseException, OSError, AssertionError) as error:
        message = typed_of_another_trainer(schema) if isinstance(error, AssertionError) else explain(error, schema)
        if traceback_wanted or message is None:
            raise
        print(f"llmrl {command}: {message}", file=sys.stderr)
        return REFUSED
    finally:
        if not traceback_wanted:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _drop_empty_folder() -> None:
    """Remove the output folder Hydra made if nothing was put into it: a refused run leaves no folder that looks like one."""
    if HydraConfig.initialized():
        folder = Path(HydraConfig.get().runtime.output_dir)
        if folder.is_dir() and folder != Path.cwd() and not any(folder.iterdir()):
            folder.rmdir()
