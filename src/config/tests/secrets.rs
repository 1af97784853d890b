//! Secrets: where they come from, and where they are not seen.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_password_from_the_environment_is_used_but_neither_kept_nor_shown() {
    let site = Site::new(&format!("{BASE}{MAIL}\n[notify.dog]\ntype = \"heartbeat\"\n"))
        .with_env("BACKUP_AGENT__NOTIFY__ADMIN__PASSWORD", "hunter2")
        .with_env("BACKUP_AGENT__NOTIFY__DOG__URL", "https://hc.example.org/hunter2");
    let loaded = site.good();
    let NotifyConfig::Email(email) = &loaded.config.notify["admin"] else { panic!("not mail") };
    assert_eq!(email.password.as_ref().unwrap().expose(), "hunter2");
    for text in [loaded.text.clone(), show(&loaded.config), format!("{:?}", loaded.config)] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    // The last good text is read with the secrets of the environment, and with nothing else of it.
    let mut env = site.env.clone();
    env.push(("BACKUP_AGENT__LISTEN".to_owned(), "nonsense".to_owned()));
    let again = load_text(&loaded.text, &env).unwrap();
    assert_eq!(show(&again.config), show(&loaded.config));
    let NotifyConfig::Email(email) = &again.config.notify["admin"] else { panic!("not mail") };
    assert_eq!(email.password.as_ref().unwrap().expose(), "hunter2");
    let without = load_text(&loaded.text, &[]).expect_err("there is no password").to_string();
    assert!(without.contains("`user` needs a password"), "{without}");
}

#[test]
fn a_file_with_a_secret_must_be_there_and_closed_to_others() {
    let mut site = Site::new(BASE);
    let secret = site.folder.path().join("password");
    let text = format!("{BASE}{MAIL}password_file = {secret:?}\n");
    std::fs::write(site.folder.path().join("config.toml"), text).unwrap();
    site.good();
    site.check_files = true;
    // A channel that cannot be used stops no backup, so this is no error of the load.
    let told = |site: &Site| {
        let loaded = site.good();
        loaded.strictly().map_err(|errors| errors.to_string()).err().unwrap_or_default()
    };
    let errors = told(&site);
    assert!(errors.contains("password does not exist; write the secret there, then `chmod 600"), "{errors}");
    std::fs::write(&secret, "hunter2\n").unwrap();
    for (mode, accepted) in [(0o600, true), (0o400, true), (0o644, false), (0o604, false), (0o602, false)] {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
        let text = told(&site);
        assert_eq!(text.is_empty(), accepted, "mode {mode:o}: {text}");
        if !accepted {
            assert!(text.contains(&format!("`chmod 600 {}`", secret.display())), "{text}");
            assert!(text.contains("config.toml:21:17:"), "{text}");
        }
    }
    // With a mistake elsewhere all of it is told at once.
    let file = site.folder.path().join("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[\"local\"]", "[\"locl\"]")).unwrap();
    let errors = site.errors();
    assert!(errors.contains("there is no [target.locl]") && errors.contains("`chmod 600 "), "{errors}");
    std::fs::write(&file, text).unwrap();
    assert_eq!(resolve_secret(None, Some(&secret)).unwrap().unwrap().expose(), "hunter2");
    std::fs::write(&secret, "\n").unwrap();
    assert!(resolve_secret(None, Some(&secret)).is_err());
    std::fs::remove_file(&secret).unwrap();
    std::fs::create_dir(&secret).unwrap();
    assert!(told(&site).contains("password is not a file"), "{}", told(&site));
}

#[test]
fn a_laravel_env_that_everybody_can_read_is_refused() {
    let (mut site, root) = laravel("DB_CONNECTION=mysql\n");
    site.check_files = true;
    let told = |site: &Site| {
        let refused = site.good().strictly().map_err(|errors| errors.to_string());
        refused.err().unwrap_or_default()
    };
    let env = format!("{root}/.env");
    std::fs::set_permissions(&env, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(told(&site).contains(&format!("`chmod 640 {env}`")), "{}", told(&site));
    std::fs::set_permissions(&env, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(told(&site), "");
}
