//! `lab targets list`.

use lab_proto::operator::{TargetAside, TargetList};

use super::Look;

/// Every target in quarantine.
pub fn list(list: &TargetList, look: &Look) -> String {
    if list.targets.is_empty() {
        return "no target is in quarantine\n".to_owned();
    }
    let one = |aside: &TargetAside| {
        let why = aside.quarantine.clone().unwrap_or_default();
        let rows = [
            vec!["since".to_owned(), look.when(&why.since)],
            vec!["by".to_owned(), why.by],
            vec!["why".to_owned(), why.reason],
        ];
        // A name is for copying: it is never broken.
        format!("{}\n{}", aside.target, look.columns(2, rows))
    };
    list.targets.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use lab_proto::operator::Quarantine;

    use super::*;
    use crate::view::tests::look;

    #[test]
    fn what_is_put_aside_is_listed_with_why() {
        let aside = TargetAside {
            target: "git+https://git.example.org/fleet?rev=4e5a".into(),
            quarantine: Some(Quarantine {
                by: "ada".into(),
                reason: "breaks DNS".into(),
                since: "2026-11-21T12:00:00Z".into(),
            }),
        };
        let targets = vec![aside];
        insta::assert_snapshot!("targets", list(&TargetList { targets }, &look()));
        assert_eq!(
            list(&TargetList::default(), &look()),
            "no target is in quarantine\n"
        );
    }
}
