"""What each ONNX operator costs: nothing, one pass over memory, or a product."""

_VIEWS = """
    Identity Reshape Transpose Squeeze Unsqueeze Flatten Cast CastLike Dropout Split Slice Expand Shape Size Constant
    ConstantOfShape Range QuantizeLinear DequantizeLinear DynamicQuantizeLinear SequenceConstruct SequenceAt
    BatchNormalization
"""
VIEWS = frozenset(_VIEWS.split())
"""Operators without a kernel of their own: an engine builder folds them into the layout, type or epilogue beside them.

BatchNormalization is here because a builder folds it into the convolution before it.
"""

_PRODUCTS = """
    MatMul Gemm Conv ConvTranspose Einsum MatMulInteger ConvInteger QLinearMatMul QLinearConv FusedMatMul
"""
PRODUCTS = frozenset(_PRODUCTS.split())

ATTENTIONS = frozenset({"Attention", "MultiHeadAttention"})

_MEMORY = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BiasGelu BitShift Ceil Celu Clip Compress
    Concat Cos Cosh CumSum DepthToSpace Div Elu Equal Erf Exp EyeLike FastGelu Floor Gather GatherElements GatherND Gelu
    GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LpPool Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow QuickGelu RMSNormalization Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Resize ReverseSequence Round Scatter ScatterElements ScatterND Selu Shrink Sigmoid Sign SimplifiedLayerNormalization
    Sin Sinh SkipLayerNormalization SkipSimplifiedLayerNormalization Softmax Softplus Softsign SpaceToDepth Sqrt Sub Sum
    Tan Tanh ThresholdedRelu Tile TopK Trilu Upsample Where Xor
"""
MEMORY = frozenset(_MEMORY.split())
"""Operators known to be bound by memory traffic; every other one is counted so too, but listed as unknown."""

STANDARD_DOMAINS = ("", "ai.onnx", "com.microsoft")

# The words by which `fusion` tells kernels of their own, in the spelling of a torch trace.
_SPELLING = {
    "Concat": "cat",
    "Resize": "upsample",
    "Upsample": "upsample",
    "GridSample": "grid_sampler",
    "TopK": "topk",
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "Mean": "add",  # element-wise over its inputs
    "LayerNormalization": "layer_norm",
    "SkipLayerNormalization": "layer_norm",
    "SimplifiedLayerNormalization": "rms_norm",
    "SkipSimplifiedLayerNormalization": "rms_norm",
    "RMSNormalization": "rms_norm",
    "GroupNormalization": "group_norm",
    "InstanceNormalization": "instance_norm",
    "LpNormalization": "lp_norm",
}


def spelled(op_type: str) -> str:
    """The operator's name as a torch trace would write it."""
    return _SPELLING.get(op_type, op_type.lower())
