//! Queries to a Prometheus, through its HTTP API: <https://prometheus.io/docs/prometheus/latest/querying/api/>.

use common::Timestamp;
use coordinator_core::analysis::{Number, Test, Worse};
use reqwest::{Client, Url};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    Found, Times,
    http::{body, said},
    rank::{self, Comparison},
};

/// Values shown of an answer.
const SHOWN: usize = 3;

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Sample>),
    Scalar(Point),
    Matrix(Vec<Series>),
    String(IgnoredAny),
}

#[derive(Deserialize)]
struct Sample {
    /// Missing of a histogram.
    value: Option<Point>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    values: Vec<Point>,
}

/// When, in seconds since 1970, and what: a number as text, because JSON has no `NaN`.
type Point = (f64, String);

/// Asks, and holds the answer against the test.
pub(super) async fn ask(
    client: &Client,
    prometheus: &str,
    query: &str,
    test: &Test,
    times: Times,
) -> Found {
    let found = match test {
        Test::Within { at_least, at_most } => {
            let asked = [("query", query.to_owned())];
            let data = fetch(client, prometheus, "query", &asked).await;
            data.map(|data| within(data, *at_least, *at_most))
        }
        Test::NotWorse {
            worse,
            window,
            step,
            significance,
        } => {
            let step = step.as_secs().max(1).to_string();
            let range = async |from: Timestamp, to: Timestamp| {
                let asked = [
                    ("query", query.to_owned()),
                    ("start", seconds(from)),
                    ("end", seconds(to)),
                    ("step", step.clone()),
                ];
                one_series(fetch(client, prometheus, "query_range", &asked).await?)
            };
            let begin = Timestamp(before(times.opened, *window));
            let since = Timestamp(before(times.at, *window).max(times.since.0));
            match (
                range(begin, times.opened).await,
                range(since, times.at).await,
            ) {
                (Ok(before), Ok(after)) => Ok(compared(&before, &after, *worse, *significance)),
                (Err(found), _) | (_, Err(found)) => Err(found),
            }
        }
    };
    found.unwrap_or_else(|found| found)
}

fn before(at: Timestamp, window: std::time::Duration) -> i64 {
    let window = i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
    at.as_millis().saturating_sub(window)
}

/// Seconds since 1970, as the API takes them.
fn seconds(at: Timestamp) -> String {
    let millis = at.as_millis().max(0);
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

/// The data of an answer, or why there is none.
async fn fetch(
    client: &Client,
    prometheus: &str,
    call: &str,
    asked: &[(&str, String)],
) -> Result<Data, Found> {
    let address = format!("{}/api/v1/{call}", prometheus.trim_end_matches('/'));
    let url = Url::parse_with_params(&address, asked);
    let url = url.map_err(|error| Found::error(format!("{prometheus}: {error}")))?;
    let answer = client.get(url).send().await;
    let answer = answer.map_err(|error| Found::error(said(error)))?;
    let status = answer.status();
    let body = body(answer)
        .await
        .map_err(|error| Found::error(said(error)))?;
    if body.cut {
        return Err(Found::error("its answer is longer than is read of any"));
    }
    let reply: Reply = serde_json::from_slice(&body.bytes).map_err(|error| {
        Found::error(format!(
            "it answered {status}, and not as a Prometheus: {error}"
        ))
    })?;
    match reply.data {
        Some(data) if status.is_success() && reply.error.is_empty() => Ok(data),
        Some(_) | None if reply.error.is_empty() => {
            Err(Found::error(format!("it answered {status} and no data")))
        }
        Some(_) | None => Err(Found::error(format!("it says: {}", reply.error))),
    }
}

/// Every value between both bounds.
fn within(data: Data, at_least: Option<Number>, at_most: Option<Number>) -> Found {
    let points: Option<Vec<Point>> = match data {
        Data::Vector(samples) => samples.into_iter().map(|sample| sample.value).collect(),
        Data::Scalar(point) => Some(vec![point]),
        Data::Matrix(_) => return Found::error("the query comes to ranges, and not to values"),
        Data::String(_) => return Found::error("the query comes to a text"),
    };
    let values = points.and_then(|points| {
        let values = points.iter().map(|(_, text)| text.parse().ok());
        values.collect::<Option<Vec<f64>>>()
    });
    let values = match values {
        None => return Found::error("a value of the answer is not a number"),
        Some(values) if values.is_empty() => return Found::inconclusive("the query finds nothing"),
        Some(values) => values,
    };
    let low = |value: &&f64| at_least.is_some_and(|bound| **value < bound.get());
    let high = |value: &&f64| at_most.is_some_and(|bound| **value > bound.get());
    if let Some(value) = values.iter().find(|value| low(value) || high(value)) {
        let bounds = [
            at_least.map(|bound| format!("at least {bound}")),
            at_most.map(|bound| format!("at most {bound}")),
        ];
        let bounds: Vec<String> = bounds.into_iter().flatten().collect();
        return Found::fail(format!(
            "it is {value}, and may be {}",
            bounds.join(" and ")
        ));
    }
    if values.iter().any(|value| value.is_nan()) {
        return Found::inconclusive("it is NaN");
    }
    let shown: Vec<String> = values.iter().take(SHOWN).map(f64::to_string).collect();
    let more = if values.len() > SHOWN { ", …" } else { "" };
    Found::pass(format!("it is {}{more}", shown.join(", ")))
}

/// The numbers of the one series of a range.
fn one_series(data: Data) -> Result<Vec<f64>, Found> {
    let Data::Matrix(series) = data else {
        return Err(Found::error("the query does not come to a range"));
    };
    let mut series = series.into_iter();
    let points = match (series.next(), series.len()) {
        (None, _) => Vec::new(),
        (Some(one), 0) => one.values,
        (Some(_), more) => {
            let text = format!("the query comes to {} series: make it one", more + 1);
            return Err(Found::error(text));
        }
    };
    let values = points.iter().filter_map(|(_, text)| text.parse().ok());
    Ok(values.filter(|value: &f64| !value.is_nan()).collect())
}

fn compared(before: &[f64], after: &[f64], worse: Worse, significance: Number) -> Found {
    let (was, is) = (rank::median(before), rank::median(after));
    match rank::compare(before, after, worse) {
        Comparison::TooFew => Found::inconclusive(format!(
            "{} values before and {} since are too few to compare: {} are needed of each",
            before.len(),
            after.len(),
            rank::SAMPLES_MIN
        )),
        Comparison::Chance(p) if p < significance.get() => Found::fail(format!(
            "worse than before: the median was {was} and is {is} (p = {p:.4}, {} and {} values)",
            before.len(),
            after.len()
        )),
        Comparison::Chance(p) => Found::pass(format!(
            "not worse than before: the median was {was} and is {is} (p = {p:.4})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use coordinator_core::analysis::Finding;
    use serde_json::json;

    use super::*;

    fn found(data: &serde_json::Value, at_least: Option<f64>, at_most: Option<f64>) -> Found {
        let data: Data = serde_json::from_value(data.clone()).expect("data");
        within(
            data,
            at_least.and_then(Number::new),
            at_most.and_then(Number::new),
        )
    }

    #[test]
    fn a_value_is_held_against_its_bounds() {
        let vector = |values: &[&str]| {
            let samples = values
                .iter()
                .map(|value| json!({ "metric": {}, "value": [1.5, value] }));
            json!({ "resultType": "vector", "result": samples.collect::<Vec<_>>() })
        };
        use Finding::{Fail, Inconclusive, Pass};
        for (values, at_least, at_most, expected) in [
            (&["0.01"][..], None, Some(0.01), Pass),
            (&["0.011"], None, Some(0.01), Fail),
            (&["3"], Some(3.0), None, Pass),
            (&["2.9"], Some(3.0), None, Fail),
            (&["3", "5"], Some(3.0), Some(4.0), Fail),
            (&[], Some(3.0), None, Inconclusive),
            (&["NaN"], Some(3.0), Some(4.0), Inconclusive),
            // What is too much is that whatever else is not known.
            (&["NaN", "5"], None, Some(4.0), Fail),
            (&["+Inf"], None, Some(4.0), Fail),
            (&["-Inf"], None, Some(4.0), Pass),
        ] {
            let found = found(&vector(values), at_least, at_most);
            assert_eq!(found.finding, expected, "{values:?}: {}", found.detail);
        }
    }

    #[test]
    fn what_is_no_value_is_an_error() {
        for data in [
            json!({ "resultType": "string", "result": [1, "3"] }),
            json!({ "resultType": "matrix", "result": [] }),
            json!({ "resultType": "scalar", "result": [1, "three"] }),
            json!({ "resultType": "vector", "result": [{ "metric": {}, "histogram": [1, {}] }] }),
        ] {
            assert_eq!(
                found(&data, None, Some(1.0)).finding,
                Finding::Error,
                "{data}"
            );
        }
        let scalar = json!({ "resultType": "scalar", "result": [1, "3"] });
        assert_eq!(found(&scalar, None, Some(3.0)).finding, Finding::Pass);
    }

    #[test]
    fn one_series_is_compared() {
        let series = |count: usize| {
            let one = json!({ "metric": {}, "values": [[1, "1"], [2, "NaN"], [3, "2.5"]] });
            let data = json!({ "resultType": "matrix", "result": vec![one; count] });
            one_series(serde_json::from_value(data).expect("data"))
        };
        assert_eq!(series(0), Ok(Vec::new()));
        assert_eq!(series(1), Ok(vec![1.0, 2.5]));
        assert_eq!(series(2).expect_err("two").finding, Finding::Error);
    }
}
