"""SemiEvol: fine-tune from few labels plus unlabelled data."""
