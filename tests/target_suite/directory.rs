use backup_agent::target::{DirectoryTarget, Mount, Target};

use crate::suite;

#[test]
fn a_folder_is_a_target() {
    let top = tempfile::tempdir().unwrap();
    suite::conforms(&|name| {
        let path = top.path().join(name);
        std::fs::create_dir(&path).unwrap();
        Box::new(move || {
            let name = "local".parse().unwrap();
            Box::new(DirectoryTarget::new(name, path.clone(), Mount::Any)) as Box<dyn Target>
        })
    });
}
