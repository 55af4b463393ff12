"""Models trained together by secure sums: exactly those of the pooled rows, or differentially private ones.

`sandbox.fit` says what may be asked. A learner (`learner`) is a state machine over secure sums; `estimators` finds the one of a request:

    scaler, linear, glm, pca, kmeans, naive_bayes, trees     exact
    private …                                                the same under DP
    evaluation, contribution                                 how good a model is, and whose data made it so
    formula                                                  Wilkinson formulas as requests
"""
