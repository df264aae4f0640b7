//! Temporary: time a pull.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
use sampan_images::*;
use sampan_testing::*;
#[tokio::main]
async fn main() {
    let registry = Registry::start();
    let reference = registry.push(&fixture(Fixture::Postgres));
    for i in 0..5 {
        let root = tempfile::tempdir_in("/work").unwrap();
        let layers =
            sampan_layers::LayerStore::open(root.path(), sampan_layers::Options::default())
                .unwrap();
        let store = ImageStore::open(root.path(), layers, Options::default()).unwrap();
        let (sink, mut news) = ProgressSink::channel();
        let start = std::time::Instant::now();
        let printer = tokio::spawn(async move {
            while let Some(p) = news.recv().await {
                if i == 4 {
                    println!("{:?} {p:?}", start.elapsed());
                }
            }
        });
        let pulled = store
            .pull(&reference.parse().unwrap(), &PullOptions::default(), &sink)
            .await
            .unwrap();
        let t = start.elapsed();
        drop(sink);
        printer.await.unwrap();
        println!(
            "{t:?} size {} layers {:?}",
            pulled.image.size,
            pulled
                .image
                .layers
                .iter()
                .map(|l| (l.size, l.blob.as_ref().unwrap().size))
                .collect::<Vec<_>>()
        );
    }
}
