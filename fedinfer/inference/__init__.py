"""Inference on the device. Imports without torch.

`Predictor` turns rows into labels; `Slots` keeps two versions on disk; `fedinfer.inference.updater` installs signed
models; `fedinfer.inference.installed` opens what is installed.
"""

from fedinfer.inference.answers import Naming as Naming
from fedinfer.inference.answers import Prediction as Prediction
from fedinfer.inference.answers import Predictions as Predictions
from fedinfer.inference.predictor import Predictor as Predictor
from fedinfer.inference.session import SessionCache as SessionCache
from fedinfer.inference.slots import SlotInfo as SlotInfo
from fedinfer.inference.slots import Slots as Slots
