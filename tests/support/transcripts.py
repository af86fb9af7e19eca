"""What a terminal of 80 columns shows of a search and a promotion of digits, and what pages quote of it."""

RUN = """
runs/digits-20k: new study
data     digits: 1,150 training and 287 validation images, 32x32 grey, 10
classes, a test split that only `promote` reads
score    accuracy (always the largest class: 10.10 %)
device   SOME
budget   20,000 parameters
  smallest: 514 parameters, 47,184 multiply-adds: [8,8] x [1,1] basic, kernels 1
and 1, 1x1/2 stem
  largest of 100 draws: 19,826 parameters, 772,416 multiply-adds: [8,16,32] x
[1,1,1] preact, 3x3/2 stem, final norm
trials   4 short runs of 2 epochs, first 1 baseline (lenet-sized)
         then 3 from the portfolio, which did best on other images
(--no-portfolio: none)
time     about 13 to 17 min, done between 18:42 and 18:47
         measured: 1,234 images/s on [8,16,24] x [2,1,1] preact, 5x5/2 stem,
max-pool shortcut
 done   trial     score   size    time  network    ★ best, - pruned, x failed
 1/4 ★     0   68.11 %  19.8k     N s  lenet-sized: [8,16,32] x [1,1,1] basic,…
 2/4 ★     1   69.83 %  19.8k     N s  portfolio: wide 1-1-1, muon: [8,16,32] x…
 3/4       2   65.31 %  13.3k     N s  portfolio: draw 36: [8,16] x [1,1] basic…
 4/4       3   37.81 %  19.8k     N s  portfolio: basic 1-1-1, one-cycle: [8,16…
4 of 4 trials: 4 complete, 0 pruned, 0 failed
Best trials (score: validation accuracy after the short run)
  score  trial  parameters  multiply-adds  optimizer  network            seconds
────────────────────────────────────────────────────────────────────────────────
69.83 %      1      19,826          772 k       muon  [8,16,32] x              N
                                                      [1,1,1] preact,
                                                      3x3/2 stem, final
                                                      norm
68.11 %      0      19,810          772 k      adamw  [8,16,32] x              N
                                                      [1,1,1] basic,
                                                      3x3/2 stem
65.31 %      2      13,314         1.46 M       muon  [8,16] x [1,1]           N
                                                      basic, kernels 5
                                                      and 5, 3x3/2
                                                      stem, max-pool
                                                      shortcut
37.81 %      3      19,810          772 k        sgd  [8,16,32] x              N
                                                      [1,1,1] basic,
                                                      3x3/2 stem
next: search promote digits-20k   or: search dashboard digits-20k
report: runs/digits-20k/report.html
"""
PROMOTE = """
digits-20k: the top 2 for 5 epochs, with 2 seeds each, on CPU, 1 thread
time     2 full runs: about 2 to 16 s, done at 18:30
Full runs, the longest first, then the best on validation (short and full run:
validation accuracy)
trial  parameters  optimizer  seed  epochs    short     full     test  seconds
──────────────────────────────────────────────────────────────────────────────
    1      19,826       muon     1       5  69.83 %  98.26 %  97.22 %        N
    1      19,826       muon     0       5  69.83 %  97.21 %  97.50 %        N
    0      19,810      adamw     1       5  68.11 %  92.00 %  90.00 %        N
    0      19,810      adamw     0       5  68.11 %  90.00 %  88.00 %        N
    2      13,314       muon     1       5  65.31 %  87.00 %  81.00 %        N
    2      13,314       muon     0       5  65.31 %  85.00 %  80.00 %        N
best on validation: trial 1, [8,16,32] x [1,1,1] preact, 3x3/2 stem, final norm;
muon, lr 0.02, cosine, batch 64, 5 epochs
  2 seeds, mean and standard deviation: validation 97.74 ± 0.74 %, test 97.36 ±
0.20 %
next: search errors digits-20k   or: search export digits-20k
report: runs/digits-20k/report.html
"""
