# SPDX-License-Identifier: Apache-2.0
"""Forecasts the temperature at the three airports of New York, 24 hours ahead with intervals, and compares baselines."""
