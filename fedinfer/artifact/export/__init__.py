"""Float models to ONNX graphs: torch modules, scikit-learn estimators, trees, tokenizers."""
