"""ONNX: export, Q/DQ, precision, 2:4 and parity checks, lint against what TensorRT accepts."""
