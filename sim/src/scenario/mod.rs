//! Scenario files, random budgets and the explicit plans that both become.
