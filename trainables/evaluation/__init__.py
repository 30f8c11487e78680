"""How a trained network is judged: accuracy and adversarial robustness, on images in [0, 1]."""
