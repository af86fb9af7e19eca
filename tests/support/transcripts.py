"""What a terminal of 80 columns shows of a search and a promotion of digits, and what pages quote of it."""

RUN = """
runs/digits-20k: new study
data     digits: 1,150 training and 287 validation images, 32x32 grey, 10
classes, a test split that only `promote` reads
device   SOME
budget   20,000 parameters
  smallest: 514 parameters, 47,184 multiply-adds: [8,8] x [1,1] basic, kernels 1
and 1, 1x1/2 stem
  largest of 100 draws: 19,810 parameters, 772,416 multiply-adds: [8,16,32] x
[1,1,1] basic, 3x3/2 stem, max-pool shortcut
trials   4 of 2 epochs, first 1 baseline (lenet-sized)
time     at most 90 s, less what pruning saves (1,234 images/s measured on
[8,24,24] x [1,1,1] basic, 1x1/2 stem, max-pool shortcut)
   1/4  trial 0 (lenet-sized)  68.11 %  19,810 parameters  N s  [8,16,32] x
[1,1,1] basic, 3x3/2 stem
   2/4  trial 1  31.21 %  18,922 parameters  N s  [16,24] x [2,1] preact, 3x3/2
stem, max-pool shortcut
   3/4  trial 2  60.90 %  11,130 parameters  N s  [16,16] x [2,2] preact,
kernels 1 and 3, 3x3/2 stem, max-pool shortcut
   4/4  trial 3  67.90 %  19,746 parameters  N s  [8,16,32] x [1,1,1] basic,
1x1/2 stem, max-pool shortcut
4 of 4 trials: 4 complete, 0 pruned, 0 failed
Best trials (score: validation accuracy after the short run)
  score  trial  parameters  multiply-adds  optimizer  network            seconds
────────────────────────────────────────────────────────────────────────────────
68.11 %      0      19,810          772 k      adamw  [8,16,32] x              N
                                                      [1,1,1] basic,
                                                      3x3/2 stem
67.90 %      3      19,746          756 k      adamw  [8,16,32] x              N
                                                      [1,1,1] basic,
                                                      1x1/2 stem,
                                                      max-pool shortcut
60.90 %      2      11,130         1.69 M       adam  [16,16] x [2,2]          N
                                                      preact, kernels 1
                                                      and 3, 3x3/2
                                                      stem, max-pool
                                                      shortcut
31.21 %      1      18,922         2.97 M        sgd  [16,24] x [2,1]          N
                                                      preact, 3x3/2
                                                      stem, max-pool
                                                      shortcut
next: search promote digits-20k   or: search dashboard digits-20k
report: runs/digits-20k/report.html
"""
PROMOTE = """
digits-20k: the top 2 for 5 epochs, with 2 seeds each, on CPU, 1 thread
Full runs, the longest first, then the best on validation (short and full run:
validation accuracy)
trial  parameters  optimizer  seed  epochs    short     full     test  seconds
──────────────────────────────────────────────────────────────────────────────
    0      19,810      adamw     1       5  68.11 %  92.00 %  90.00 %       12
    0      19,810      adamw     0       5  68.11 %  90.00 %  88.00 %       12
    2      11,130       adam     1       5  60.90 %  87.00 %  81.00 %       12
    2      11,130       adam     0       5  60.90 %  85.00 %  80.00 %       12
best on validation: trial 0, [8,16,32] x [1,1,1] basic, 3x3/2 stem; adamw, lr
0.003, cosine, batch 32, 5 epochs
  2 seeds, mean and standard deviation: validation 91.00 ± 1.41 %, test 89.00 ±
1.41 %
next: search export digits-20k
report: runs/digits-20k/report.html
"""
