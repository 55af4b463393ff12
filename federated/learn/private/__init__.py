"""Differentially private variants of the learners: the same requests, with noise in every sum and a cost that is charged up front.

learner     blocks of integer sums, their sensitivity, the noise, the cost
quadratic   StandardScaler, LinearRegression, PCA: one sum of squares and products
newton      LogisticRegression, PoissonRegressor: noisy gradients and Hessians
clusters    KMeans: noisy Lloyd steps
bayes       GaussianNB: noisy sums per class
trees       boosting on trees of random structure: noisy sums per leaf
"""
