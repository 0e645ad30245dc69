//! Quantiles of repeated measurements.

/// The measurements of one quantity in rising order.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// Sorts `values`.
    pub(super) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The value below which this share of the measurements lies; 0 if there are none.
    pub(super) fn quantile(&self, thousandths: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * thousandths.min(1000) / 1000).copied().unwrap_or(0.0)
    }

    /// The median.
    pub(super) fn median(&self) -> f64 {
        self.quantile(500)
    }

    /// Median and extremes as text, such as "61.2 (60.1 to 61.9)".
    pub(super) fn spread(&self) -> String {
        let (min, max) = (self.quantile(0), self.quantile(1000));
        format!("{:.1} ({min:.1} to {max:.1})", self.median())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_extremes() {
        let samples = Samples::new(vec![3.0, 1.0, 2.0, 5.0, 4.0]);
        assert_eq!(samples.median(), 3.0);
        assert_eq!(samples.spread(), "3.0 (1.0 to 5.0)");
        assert_eq!(Samples::default().spread(), "0.0 (0.0 to 0.0)");
    }
}
