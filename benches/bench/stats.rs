//! Medians and percentiles.

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// The smallest value that at least this percentage of all values does not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

pub fn max(values: &[f64]) -> f64 {
    percentile(values, 100)
}
