from .comparison.compare import compare as compare
from .comparison.folder import load_comparison as load_comparison
from .comparison.results import Comparison as Comparison
from .layers import LayerDistribution as LayerDistribution
from .layers import layer_distribution as layer_distribution
from .methods import Settings as Settings
from .transfer import transfer_matrix as transfer_matrix
from .transfer_results import TransferMatrix as TransferMatrix
