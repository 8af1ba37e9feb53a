package mlscore

import (
	"crypto/hpke"
	"io"
	"testing"

	circl "github.com/cloudflare/circl/hpke"
)

func benchSuites(b *testing.B, run func(b *testing.B, s *suite)) {
	for _, s := range suites {
		b.Run("ours/"+s.name, func(b *testing.B) {
			b.ReportAllocs()
			run(b, s)
		})
	}
}

// benchKeys makes the key pair that a benchmark of sealing and opening uses.
func benchKeys(b *testing.B, s *suite) (io.Reader, Secret, []byte) {
	r := seeded("bench")
	priv, pub, err := s.generateKeyPair(r)
	if err != nil {
		b.Fatal(err)
	}
	return r, priv, pub
}

func BenchmarkHPKESeal(b *testing.B) {
	info, plaintext := make([]byte, 100), make([]byte, 32)
	benchSuites(b, func(b *testing.B, s *suite) {
		r, _, pub := benchKeys(b, s)
		for b.Loop() {
			if _, _, err := s.encryptWithLabel(r, pub, "UpdatePathNode", info, plaintext); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, s := range suites {
		b.Run("circl/"+s.name, func(b *testing.B) {
			r, _, pub := benchKeys(b, s)
			other := circl.NewSuite(circl.KEM(s.kem.id()), circl.KDF(s.kdf.id), circl.AEAD(s.aead.id))
			b.ReportAllocs()
			for b.Loop() {
				key, err := circl.KEM(s.kem.id()).Scheme().UnmarshalBinaryPublicKey(pub)
				if err != nil {
					b.Fatal(err)
				}
				sender, err := other.NewSender(key, info)
				if err != nil {
					b.Fatal(err)
				}
				_, sealer, err := sender.Setup(r)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := sealer.Seal(plaintext, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("std/"+s.name, func(b *testing.B) {
			_, _, pub := benchKeys(b, s)
			kem, kdf, aead := stdParts(b, s)
			b.ReportAllocs()
			for b.Loop() {
				key, err := kem.NewPublicKey(pub)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := hpke.Seal(key, kdf, aead, info, plaintext); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkHPKEOpen(b *testing.B) {
	context, plaintext := make([]byte, 100), make([]byte, 32)
	benchSuites(b, func(b *testing.B, s *suite) {
		r, priv, pub := benchKeys(b, s)
		kemOutput, ciphertext, err := s.encryptWithLabel(r, pub, "UpdatePathNode", context, plaintext)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := s.decryptWithLabel(priv.Bytes(), "UpdatePathNode", context, kemOutput, ciphertext); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, s := range suites {
		b.Run("circl/"+s.name, func(b *testing.B) { benchCirclOpen(b, s) })
		b.Run("std/"+s.name, func(b *testing.B) { benchStdOpen(b, s) })
	}
}

func benchCirclOpen(b *testing.B, s *suite) {
	r, priv, pub := benchKeys(b, s)
	info := s.hashInfo(nil)
	kemOutput, ciphertext, err := s.encryptTo(r, pub, info, make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	other := circl.NewSuite(circl.KEM(s.kem.id()), circl.KDF(s.kdf.id), circl.AEAD(s.aead.id))
	b.ReportAllocs()
	for b.Loop() {
		key, err := circl.KEM(s.kem.id()).Scheme().UnmarshalBinaryPrivateKey(priv.Bytes())
		if err != nil {
			b.Fatal(err)
		}
		receiver, err := other.NewReceiver(key, nil)
		if err != nil {
			b.Fatal(err)
		}
		opener, err := receiver.Setup(kemOutput)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := opener.Open(ciphertext, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func benchStdOpen(b *testing.B, s *suite) {
	r, priv, pub := benchKeys(b, s)
	kemOutput, ciphertext, err := s.encryptTo(r, pub, s.hashInfo(nil), make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	both := append(kemOutput, ciphertext...)
	kem, kdf, aead := stdParts(b, s)
	b.ReportAllocs()
	for b.Loop() {
		key, err := kem.NewPrivateKey(priv.Bytes())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := hpke.Open(key, kdf, aead, nil, both); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHPKEDeriveKeyPair(b *testing.B) {
	ikm := make([]byte, 32)
	benchSuites(b, func(b *testing.B, s *suite) {
		for b.Loop() {
			if _, _, err := s.deriveKeyPair(ikm); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, s := range suites {
		b.Run("circl/"+s.name, func(b *testing.B) {
			scheme := circl.KEM(s.kem.id()).Scheme()
			seed := make([]byte, scheme.SeedSize())
			b.ReportAllocs()
			for b.Loop() {
				scheme.DeriveKeyPair(seed)
			}
		})
		b.Run("std/"+s.name, func(b *testing.B) {
			kem, _, _ := stdParts(b, s)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := kem.DeriveKeyPair(ikm); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWelcome seals to one of many joiners, with the encrypted GroupInfo of a large group as context: hashed for
// each joiner, and hashed once.
func BenchmarkWelcome(b *testing.B) {
	s := suites[0]
	r, _, pub := benchKeys(b, s)
	context, plaintext := make([]byte, 1<<20), make([]byte, 100)
	b.Run("hashed for each", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := s.encryptWithLabel(r, pub, "Welcome", context, plaintext); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hashed once", func(b *testing.B) {
		info := s.sealInfo("Welcome", context)
		for b.Loop() {
			if _, _, err := s.encryptTo(r, pub, info, plaintext); err != nil {
				b.Fatal(err)
			}
		}
	})
}
