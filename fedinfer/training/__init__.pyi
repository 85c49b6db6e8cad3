"""What other packages take from `fedinfer.training`; a name is loaded when it is first used."""

from .checkpoints import Checkpoint as Checkpoint
from .checkpoints import load_checkpoint as load_checkpoint
from .checkpoints import save_checkpoint as save_checkpoint
from .compression import CompressionPlan as CompressionPlan
from .compression import Rounded as Rounded
from .engines.gradient_engine import GradientEngine as GradientEngine
from .engines.sampling import PrivateSteps as PrivateSteps
from .engines.sampling import RandomSource as RandomSource
from .engines.sampling import uniform as uniform
from .inversion import first_inputs as first_inputs
from .inversion import recovered as recovered
from .load import load_trainer as load_trainer
from .models.basis import bending as bending
from .models.canaries import canary_weights as canary_weights
from .models.shapes import weight_deviation as weight_deviation
from .pooled import PooledTask as PooledTask
from .pooled import pooled_weights as pooled_weights
from .server_optimizers import OptimizerSettings as OptimizerSettings
from .server_optimizers import OptimizerState as OptimizerState
from .server_optimizers import apply as apply
from .server_optimizers import init_optimizer as init_optimizer
from .trainer import Data as Data
from .trainer import Trainer as Trainer
