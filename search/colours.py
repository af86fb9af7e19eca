"""Okabe and Ito's colours, which colour-blind people can tell apart, without the two that vanish on white or black."""

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#8A929B"  # visible on white and on black
