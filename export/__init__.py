"""From a learner to a bundle."""
