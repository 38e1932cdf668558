"""RePurpose: a trained model restructured for several small devices that exchange little."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from strategies.repurpose.accounts import Accounts, account
    from strategies.repurpose.baselines import direct, naive, sparse
    from strategies.repurpose.calibration import Calibration, calibrate
    from strategies.repurpose.front import Point, accuracy_on, pareto, path, pick, search
    from strategies.repurpose.method import Method
    from strategies.repurpose.part import Part, part_of
    from strategies.repurpose.part_file import save_parts
    from strategies.repurpose.part_run import PartRun, run_together
    from strategies.repurpose.plan import Plan
    from strategies.repurpose.plan_file import BadPlan, check_model, load_plan, save_plan
    from strategies.repurpose.radio import device_to_device
    from strategies.repurpose.read_model import read_model
    from strategies.repurpose.readable_layers import UnsupportedLayer
    from strategies.repurpose.restructure import repurpose, split
    from strategies.repurpose.workers import DoesNotFit, Links, Worker

_NAMES = {
    "accounts": ["Accounts", "account"],
    "baselines": ["direct", "naive", "sparse"],
    "calibration": ["Calibration", "calibrate"],
    "front": ["Point", "accuracy_on", "pareto", "path", "pick", "search"],
    "method": ["Method"],
    "part": ["Part", "part_of"],
    "part_file": ["save_parts"],
    "part_run": ["PartRun", "run_together"],
    "plan": ["Plan"],
    "plan_file": ["BadPlan", "check_model", "load_plan", "save_plan"],
    "radio": ["device_to_device"],
    "read_model": ["read_model"],
    "readable_layers": ["UnsupportedLayer"],
    "restructure": ["repurpose", "split"],
    "workers": ["DoesNotFit", "Links", "Worker"],
}

__all__ = [
    "Accounts",
    "BadPlan",
    "Calibration",
    "DoesNotFit",
    "Links",
    "Method",
    "Part",
    "PartRun",
    "Plan",
    "Point",
    "UnsupportedLayer",
    "Worker",
    "account",
    "accuracy_on",
    "calibrate",
    "check_model",
    "device_to_device",
    "direct",
    "load_plan",
    "naive",
    "pareto",
    "part_of",
    "path",
    "pick",
    "read_model",
    "repurpose",
    "run_together",
    "save_parts",
    "save_plan",
    "search",
    "sparse",
    "split",
]

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
