"""How we know: metrics, calibration, paired significance, evaluation of models, the bridge to lm-eval."""
