//! Certificates made by the test that uses them.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};

/// An authority of nobody else's.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a server that is reached by these names or addresses.
    pub fn server(&self, names: &[&str]) -> Issued {
        self.issue(params("broker", names), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The same, out of date.
    pub fn expired_server(&self, names: &[&str]) -> Issued {
        self.issue(expired(params("broker", names)), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client of this name.
    pub fn client(&self, name: &str) -> Issued {
        self.issue(params(name, &[]), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The same, out of date.
    pub fn expired_client(&self, name: &str) -> Issued {
        self.issue(expired(params(name, &[])), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> Issued {
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Issued {
    /// Writes `NAME.cert.pem` and `NAME.key.pem`.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let paths = (folder.join(format!("{name}.cert.pem")), folder.join(format!("{name}.key.pem")));
        std::fs::write(&paths.0, &self.certificate).expect("written");
        std::fs::write(&paths.1, &self.key).expect("written");
        paths
    }
}

fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("well-formed names");
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 12, 31);
    params
}
