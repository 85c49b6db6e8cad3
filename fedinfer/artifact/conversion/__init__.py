"""Models of other Python libraries as imported models: a graph is written, compared with its source, and described.

`converted` is what every converter makes, `estimators` (scikit-learn), `boosting` (XGBoost, LightGBM), `networks`
(torch) and `policies` (Stable-Baselines3) make it, `convert` compares and imports, `source` finds a model by a text.
"""
