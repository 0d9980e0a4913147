//! Lists come in pages, whose work has a bound.

use super::Scene;
use serde_json::Value;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const PLAIN: &str = r#""bulkhead": {"max_concurrent_calls": 1}"#;
const KEYED: &str = r#""bulkhead": {"max_concurrent_calls": 1}, "key": "upstream_cluster", "max_keys": 1024"#;

fn names(page: &Value, list: &str, key: &str) -> Vec<String> {
    let items = page[list].as_array().unwrap();
    items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

#[test]
fn pages_follow_one_another() {
    let mut scene = Scene::new(&[PLAIN; 5]);
    for (list, key) in [("policies", "name"), ("dependencies", "policy")] {
        let mut told = |query: &str| {
            let page = scene.get(&format!("/{list}{query}"));
            (names(&page, list, key), page["next"].as_str().map(str::to_owned))
        };
        let all = ["p0", "p1", "p2", "p3", "p4"];
        let next = |name: &str| Some(name.to_owned());
        assert_eq!(told(""), (all.map(str::to_owned).into(), None));
        assert_eq!(told("?limit=2"), (all[..2].iter().map(ToString::to_string).collect(), next("p1")));
        assert_eq!(told("?after=p1&limit=2"), (vec!["p2".to_owned(), "p3".to_owned()], next("p3")));
        assert_eq!(told("?after=p3&limit=2"), (vec!["p4".to_owned()], None));
        assert_eq!(told("?after=p4"), (vec![], None));
        assert_eq!(told("?limit=5"), (all.map(str::to_owned).into(), None));
    }
    let mut none = Scene::new(&[]);
    assert_eq!(none.get("/policies")["policies"], serde_json::json!([]));
}

#[test]
fn no_reply_reads_more_than_a_thousand_states_but_for_one_policy_that_has_more() {
    let mut policies = vec![PLAIN; 1500];
    policies[600] = KEYED;
    policies[601] = KEYED;
    policies[602] = KEYED;
    let mut scene = Scene::new(&policies);
    let clusters: Vec<_> = (0..1024).map(|n| format!("c{n}")).collect();
    let clusters: Vec<_> = clusters.iter().map(String::as_str).collect();
    scene.keys("p600", &clusters[..300]);
    scene.keys("p601", &clusters);
    scene.keys("p602", &clusters[..10]);
    let mut after = String::new();
    let mut told = Vec::new();
    loop {
        scene.reads = 0;
        let page = scene.get(&format!("/policies?limit=1000{after}"));
        assert!(scene.reads <= 1030, "{}", scene.reads);
        let these = names(&page, "policies", "name");
        told.push((these.len(), scene.reads));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    // 600 and one with 300 clusters; one with more than fit, alone; those behind it, with 11 states and one table.
    assert_eq!(told, [(601, 903), (1, 1027), (898, 909)]);
    assert_eq!(scene.get("/policies")["policies"].as_array().unwrap().len(), 500);
}
