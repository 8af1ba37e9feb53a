package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"

	"github.com/mlsfed/mlsfed/mlscore"
	"github.com/mlsfed/mlsfed/wire"
)

// sign signs with the key in the device's leaves, as the suite's scheme does (RFC 9420 §5.1.2).
func (r *deviceRecord) sign(message []byte) ([]byte, error) {
	switch suite := mlscore.CipherSuite(r.Suite); suite {
	case mlscore.MLS128X25519AES128Ed25519, mlscore.MLS128X25519ChaCha20Ed25519:
		return ed25519.Sign(ed25519.NewKeyFromSeed(r.Key), message), nil
	case mlscore.MLS128P256AES128P256:
		return signECDSA(elliptic.P256(), crypto.SHA256, r.Key, message)
	case mlscore.MLS256P384AES256P384:
		return signECDSA(elliptic.P384(), crypto.SHA384, r.Key, message)
	case mlscore.MLS256P521AES256P521:
		return signECDSA(elliptic.P521(), crypto.SHA512, r.Key, message)
	default:
		return nil, wire.Errorf(wire.Invalid, "sign", "devices have no %v: choose a suite with Ed25519 or ECDSA", suite)
	}
}

func signECDSA(curve elliptic.Curve, hash crypto.Hash, key, message []byte) ([]byte, error) {
	private, err := ecdsa.ParseRawPrivateKey(curve, key)
	if err != nil {
		return nil, err
	}
	h := hash.New()
	h.Write(message)
	return private.Sign(nil, h.Sum(nil), hash)
}
