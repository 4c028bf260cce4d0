//! Whether values are worse than others were: the test of Mann and Whitney, which asks nothing of how
//! they are distributed.

use coordinator_core::analysis::Worse;
use statrs::stats_tests::{
    Alternative,
    mannwhitneyu::{MannWhitneyUMethod, mannwhitneyu},
};

/// Fewest values of each side: fewer say little about anything.
pub(super) const SAMPLES_MIN: usize = 8;

/// Most values of both sides together whose chance is counted out. What that takes grows with the fourth
/// power of their number, and the normal distribution comes close to it soon.
const EXACT_MAX: usize = 64;

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Comparison {
    /// Nothing.
    TooFew,
    /// How likely values as bad as these, or worse, are if nothing has changed.
    Chance(f64),
}

/// Compares two samples.
pub(super) fn compare(before: &[f64], after: &[f64], worse: Worse) -> Comparison {
    if before.len() < SAMPLES_MIN || after.len() < SAMPLES_MIN {
        return Comparison::TooFew;
    }
    let mut all = before.iter().chain(after);
    let first = all.next();
    if all.all(|value| Some(value) == first) {
        // Nothing varies, and nothing can be worse.
        return Comparison::Chance(1.0);
    }
    if before.len() + after.len() <= EXACT_MAX {
        return Comparison::Chance(exact(before, after, worse));
    }
    match normal(before, after, worse) {
        Some(chance) => Comparison::Chance(chance),
        // Only of values that cannot be compared, which are left out before.
        None => Comparison::TooFew,
    }
}

/// The chance by the normal distribution, ties and continuity corrected for.
fn normal(before: &[f64], after: &[f64], worse: Worse) -> Option<f64> {
    let alternative = match worse {
        Worse::Higher => Alternative::Greater,
        Worse::Lower => Alternative::Less,
    };
    let method = MannWhitneyUMethod::AsymptoticInclContinuityCorrection;
    let (_, chance) = mannwhitneyu(after, before, method, alternative).ok()?;
    Some(chance)
}

/// The chance counted out: of all ways to divide these values into samples of these sizes, the share in
/// which the ranks after sum to as much, or as little, as they do. Values that come more than once, which
/// the exact method of the library does not know, share their ranks. This is the shift algorithm of
/// Streitberg and Röhmel (1986).
fn exact(before: &[f64], after: &[f64], worse: Worse) -> f64 {
    let all = || before.iter().chain(after);
    // Twice the rank, as equal values share the middle one of theirs.
    let rank = |value: &f64| {
        let less = all().filter(|other| *other < value).count();
        let equal = all().filter(|other| *other == value).count();
        2 * less + equal + 1
    };
    let sum: usize = all().map(rank).sum();
    let seen: usize = after.iter().map(rank).sum();
    // In how many ways so many of the values have ranks of such a sum.
    let mut ways = vec![vec![0.0; sum + 1]; after.len() + 1];
    ways[0][0] = 1.0;
    for rank in all().map(rank) {
        for taken in (0..after.len()).rev() {
            let (without, with) = ways.split_at_mut(taken + 1);
            let (without, with) = (&without[taken], &mut with[0]);
            for (with, without) in with[rank..].iter_mut().zip(without) {
                *with += without;
            }
        }
    }
    let ways = &ways[after.len()];
    let as_bad = match worse {
        Worse::Higher => &ways[seen..],
        Worse::Lower => &ways[..=seen],
    };
    as_bad.iter().sum::<f64>() / ways.iter().sum::<f64>()
}

/// The middle value; NaN when there is none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => f64::NAN,
        Some(value) if sorted.len() % 2 == 1 => *value,
        Some(value) => f64::midpoint(*value, sorted[middle - 1]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: of all ways to divide the same values into samples of these sizes, the share
    /// in which as many pairs or more are the way round that is worse.
    fn by_definition(before: &[f64], after: &[f64], worse: Worse) -> f64 {
        let all: Vec<f64> = before.iter().chain(after).copied().collect();
        let pairs = |after: &dyn Fn(usize) -> bool| {
            let mut twice = 0;
            for one in (0..all.len()).filter(|one| after(*one)) {
                for other in (0..all.len()).filter(|other| !after(*other)) {
                    let (is, was) = match worse {
                        Worse::Higher => (all[one], all[other]),
                        Worse::Lower => (all[other], all[one]),
                    };
                    twice += if is > was { 2 } else { u32::from(is == was) };
                }
            }
            twice
        };
        let seen = pairs(&|index| index >= before.len());
        let (mut as_bad, mut ways) = (0.0, 0.0);
        for choice in 0_u32..1 << all.len() {
            if choice.count_ones() as usize == after.len() {
                ways += 1.0;
                as_bad += f64::from(pairs(&|index| choice >> index & 1 == 1) >= seen);
            }
        }
        as_bad / ways
    }

    fn chance(before: &[f64], after: &[f64], worse: Worse) -> f64 {
        match compare(before, after, worse) {
            Comparison::Chance(chance) => chance,
            Comparison::TooFew => panic!("too few"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Against the exact distribution, values that come more than once included.
        #[test]
        fn the_chance_is_that_of_the_exact_distribution(
            before in proptest::collection::vec(0_u8..60, 8),
            after in proptest::collection::vec(20_u8..80, 8),
            lower in any::<bool>(),
        ) {
            let of = |values: &[u8]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let (before, after) = (of(&before), of(&after));
            let worse = if lower { Worse::Lower } else { Worse::Higher };
            let ours = chance(&before, &after, worse);
            let exact = by_definition(&before, &after, worse);
            prop_assert!((ours - exact).abs() < 1e-9, "{ours} and {exact}: {before:?} {after:?}");
        }

        /// So many values that they are not counted out any more: against counting them out.
        #[test]
        fn the_normal_distribution_comes_close(
            before in proptest::collection::vec(0_u8..60, 33..50),
            after in proptest::collection::vec(0_u8..66, 33..50),
            lower in any::<bool>(),
        ) {
            let of = |values: &[u8]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            let (before, after) = (of(&before), of(&after));
            let worse = if lower { Worse::Lower } else { Worse::Higher };
            let (ours, exact) = (chance(&before, &after, worse), exact(&before, &after, worse));
            prop_assert!((ours - exact).abs() < 0.005, "{ours} and {exact}: {before:?} {after:?}");
        }
    }

    #[test]
    fn worse_is_found_and_better_is_not() {
        let before: Vec<f64> = (0..20).map(|n| f64::from(n % 7)).collect();
        let after: Vec<f64> = before.iter().map(|value| value + 4.0).collect();
        assert!(chance(&before, &after, Worse::Higher) < 0.001);
        assert!(chance(&before, &after, Worse::Lower) > 0.99);
        assert!(chance(&after, &before, Worse::Lower) < 0.001);
        assert!(chance(&before, &before, Worse::Higher) > 0.4);
    }

    #[test]
    fn few_values_say_nothing_and_equal_ones_that_nothing_changed() {
        let many = [0.0; SAMPLES_MIN];
        assert_eq!(
            compare(&many, &many[1..], Worse::Higher),
            Comparison::TooFew
        );
        assert_eq!(compare(&[], &many, Worse::Higher), Comparison::TooFew);
        assert_eq!(
            compare(&many, &many, Worse::Higher),
            Comparison::Chance(1.0)
        );
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_string(), "2");
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_string(), "2.5");
    }

    /// Noise and nothing else, the same each time.
    struct Noise(u64);

    impl Noise {
        fn values(&mut self, count: usize) -> Vec<f64> {
            let next = |_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
                self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
                f64::from(u32::try_from(self.0 >> 33).unwrap_or_default())
            };
            (0..count).map(next).collect()
        }
    }

    /// How many of so many waves fail in which nothing has changed, each looked at six times.
    fn fail_for_nothing(waves: u32, significance: f64) -> u32 {
        let mut noise = Noise(7);
        let failed = (0..waves).filter(|_| {
            let before = noise.values(40);
            let mut looks = (0..6).map(|_| chance(&before, &noise.values(40), Worse::Higher));
            looks.any(|chance| chance < significance)
        });
        u32::try_from(failed.count()).unwrap_or(u32::MAX)
    }

    #[test]
    fn looks_that_share_their_significance_fail_for_nothing_no_more_often_than_it_says() {
        // 5 % are 50, and by chance it is up to 20 more once in several hundred seeds.
        let shared = fail_for_nothing(1000, 0.05 / 6.0);
        assert!(shared <= 70, "{shared} of 1000 are more than 5 %");
        let whole = fail_for_nothing(1000, 0.05);
        assert!(
            whole > 150,
            "{whole} of 1000: nothing would have to be shared"
        );
    }
}
