"""Runs studies: samples networks and recipes, scores them by short runs, promotes the best to full length."""
