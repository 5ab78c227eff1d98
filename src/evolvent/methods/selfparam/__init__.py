"""SELF-PARAM: experience into the weights of a model, with nothing stored beside them."""
