package dcdr.authorizer;

import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.InvalidKeySpecException;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Our certificate, its key, and the authorities an agent's certificate must come from: three PEM files.
 *
 * <p>The key is PKCS#8 without a password (`BEGIN PRIVATE KEY`), RSA, EC or Ed25519. Messages name files, never what is in them.
 */
record TlsFiles(Path certificate, Path key, Path ca) {

    private static final Pattern PRIVATE_KEY =
        Pattern.compile("-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\\s]+)-----END PRIVATE KEY-----");

    /** What tells that a file was replaced. A rotation that keeps time, size and inode of all three files is not seen. */
    String fingerprint() throws IOException {
        StringBuilder all = new StringBuilder();
        for (Path file : List.of(certificate, key, ca)) {
            BasicFileAttributes now = Files.readAttributes(file, BasicFileAttributes.class);
            all.append(now.lastModifiedTime().toMillis()).append('/').append(now.size()).append('/').append(now.fileKey()).append(' ');
        }
        return all.toString();
    }

    /**
     * Read the files.
     *
     * @throws IOException naming the file and what is wrong with it; also when key and certificate do not belong together, as
     *                     happens in the middle of a rotation
     */
    SSLContext load() throws IOException {
        List<Certificate> chain = certificates(certificate);
        List<Certificate> authorities = certificates(ca);
        PrivateKey secret = privateKey(chain.get(0).getPublicKey().getAlgorithm());
        try {
            if (!belongTogether(secret, chain.get(0))) {
                throw new IOException("the key " + key + " is not the key of the certificate " + certificate);
            }
            // The store lives in memory only; it wants a password, so it gets one that protects nothing.
            char[] password = "memory".toCharArray();
            KeyStore keys = KeyStore.getInstance("PKCS12");
            keys.load(null, null);
            keys.setKeyEntry("broker", secret, password, chain.toArray(new Certificate[0]));
            KeyManagerFactory ours = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
            ours.init(keys, password);
            KeyStore trusted = KeyStore.getInstance("PKCS12");
            trusted.load(null, null);
            for (int i = 0; i < authorities.size(); i++) {
                trusted.setCertificateEntry("ca-" + i, authorities.get(i));
            }
            TrustManagerFactory theirs = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            theirs.init(trusted);
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(ours.getKeyManagers(), theirs.getTrustManagers(), null);
            return context;
        } catch (GeneralSecurityException error) {
            throw new IOException("the certificate " + certificate + " and its key cannot be used: " + error.getMessage(), error);
        }
    }

    private static List<Certificate> certificates(Path file) throws IOException {
        byte[] pem = read(file);
        try {
            List<Certificate> found = new ArrayList<>(
                CertificateFactory.getInstance("X.509").generateCertificates(new ByteArrayInputStream(pem)));
            if (found.isEmpty()) {
                throw new IOException(file + " holds no certificate");
            }
            return found;
        } catch (GeneralSecurityException error) {
            throw new IOException(file + " does not hold PEM certificates: " + error.getMessage(), error);
        }
    }

    private PrivateKey privateKey(String algorithm) throws IOException {
        Matcher found = PRIVATE_KEY.matcher(new String(read(key), StandardCharsets.US_ASCII));
        if (!found.find()) {
            throw new IOException(key + " holds no `BEGIN PRIVATE KEY` block: turn it into PKCS#8 without a password, with"
                + " `openssl pkcs8 -topk8 -nocrypt`");
        }
        try {
            byte[] der = Base64.getMimeDecoder().decode(found.group(1));
            return KeyFactory.getInstance(algorithm).generatePrivate(new PKCS8EncodedKeySpec(der));
        } catch (InvalidKeySpecException | IllegalArgumentException unusable) {
            // No cause and no message of the parser's: they may quote the key.
            throw new IOException(key + " is not a private key of the kind of its certificate (" + algorithm + ")");
        } catch (GeneralSecurityException error) {
            throw new IOException(certificate + " is of an unsupported kind (" + algorithm + "): use RSA, EC or Ed25519");
        }
    }

    private static boolean belongTogether(PrivateKey secret, Certificate own) throws GeneralSecurityException {
        String algorithm = switch (own.getPublicKey().getAlgorithm()) {
            case "RSA" -> "SHA256withRSA";
            case "EC" -> "SHA256withECDSA";
            default -> own.getPublicKey().getAlgorithm();
        };
        byte[] said = "one key, two halves".getBytes(StandardCharsets.US_ASCII);
        Signature signature = Signature.getInstance(algorithm);
        signature.initSign(secret);
        signature.update(said);
        byte[] signed = signature.sign();
        signature.initVerify(own.getPublicKey());
        signature.update(said);
        return signature.verify(signed);
    }

    private static byte[] read(Path file) throws IOException {
        try {
            return Files.readAllBytes(file);
        } catch (IOException error) {
            throw new IOException("cannot read " + file + ": " + error, error);
        }
    }
}
