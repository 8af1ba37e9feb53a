package client

import "github.com/mlsfed/mlsfed/mlscore"

// sign signs with the key in the device's leaves, with the scheme of the suite (RFC 9420 §5.1.2).
func (r *deviceRecord) sign(message []byte) ([]byte, error) {
	key := mlscore.NewSecret(r.Key)
	defer key.Erase()
	return mlscore.Sign(mlscore.CipherSuite(r.Suite), key, message)
}
