package mlscore

import (
	"encoding/binary"

	fp "github.com/cloudflare/circl/math/fp25519"
)

// The curve edwards25519 (RFC 8032 §5.1): −x² + y² = 1 + d·x²·y² over the field of 2²⁵⁵−19. The formulas are those of
// Hisil, Wong, Carter and Dawson (2008). All of them hold for any two points, including equal points and points of
// small order. The code of this file runs in variable time, except where a comment states constant time.

// edPoint is a point (x/z, y/z) in extended coordinates, with x·y = z·t.
type edPoint struct{ x, y, z, t fp.Elt }

// edCached is a point prepared for additions: y+x, y−x, 2d·t and 2z.
type edCached struct{ sum, diff, t2d, z2 fp.Elt }

// edAffine is an edCached with z = 1.
type edAffine struct{ sum, diff, t2d fp.Elt }

// Constants of the curve.
var edD, edD2, edRootOfMinus1, edBase = edConstants()

func edConstants() (d, d2, root fp.Elt, base edPoint) {
	number := func(n uint32) (e fp.Elt) {
		binary.LittleEndian.PutUint32(e[:], n)
		return e
	}
	numerator, denominator := number(121665), number(121666)
	fp.Inv(&d, &denominator)
	fp.Mul(&d, &d, &numerator)
	fp.Neg(&d, &d)
	fp.Add(&d2, &d, &d)
	one, minus := number(1), fp.Elt{}
	fp.Neg(&minus, &one)
	fp.InvSqrt(&root, &minus, &one)
	// The base point has y = 4/5 and the even x.
	y, five := number(4), number(5)
	fp.Inv(&five, &five)
	fp.Mul(&y, &y, &five)
	base.y, base.z = y, one
	base.x, _ = edRecoverX(&y, &d, 0)
	fp.Mul(&base.t, &base.x, &base.y)
	return d, d2, root, base
}

// edRecoverX computes x of a point from y. sign is the lowest bit of the result. x = 0 with a sign of 1 is not an
// error.
func edRecoverX(y, d *fp.Elt, sign byte) (x fp.Elt, ok bool) {
	var u, v, one fp.Elt
	fp.SetOne(&one)
	fp.Sqr(&u, y)
	fp.Mul(&v, &u, d)
	fp.Sub(&u, &u, &one)
	fp.Add(&v, &v, &one)
	ok = fp.InvSqrt(&x, &u, &v)
	edSetSign(&x, sign)
	return x, ok
}

// edSetSign negates x if its lowest bit is not sign.
func edSetSign(x *fp.Elt, sign byte) {
	fp.Modp(x)
	if x[0]&1 != sign {
		fp.Neg(x, x)
	}
}

// edLanes are two elements to which the same operations are applied: a processor overlaps the two computations.
type edLanes [2]fp.Elt

func (l *edLanes) square(a *edLanes, times int) {
	fp.Sqr(&l[0], &a[0])
	fp.Sqr(&l[1], &a[1])
	for range times - 1 {
		fp.Sqr(&l[0], &l[0])
		fp.Sqr(&l[1], &l[1])
	}
}

func (l *edLanes) multiply(a, b *edLanes) {
	fp.Mul(&l[0], &a[0], &b[0])
	fp.Mul(&l[1], &a[1], &b[1])
}

// power sets l to a raised to the power 2²⁵²−3 = (p−5)/8.
func (l *edLanes) power(a *edLanes) {
	var t, u, v edLanes
	t.square(a, 1)
	u.square(&t, 2)
	u.multiply(&u, a)  // 9
	t.multiply(&t, &u) // 11
	t.square(&t, 1)
	t.multiply(&t, &u) // 2⁵−1
	u.square(&t, 5)
	t.multiply(&t, &u) // 2¹⁰−1
	u.square(&t, 10)
	u.multiply(&u, &t) // 2²⁰−1
	v.square(&u, 20)
	u.multiply(&u, &v) // 2⁴⁰−1
	u.square(&u, 10)
	t.multiply(&t, &u) // 2⁵⁰−1
	u.square(&t, 50)
	u.multiply(&u, &t) // 2¹⁰⁰−1
	v.square(&u, 100)
	u.multiply(&u, &v) // 2²⁰⁰−1
	u.square(&u, 50)
	t.multiply(&t, &u) // 2²⁵⁰−1
	t.square(&t, 2)
	l.multiply(&t, a)
}

// edDecompress decodes two points with the predicate of crypto/ed25519: y may be 2²⁵⁵−19 or more, and the sign of x =
// 0 is ignored.
func edDecompress(points *[2]edAffinePoint, a, b *[32]byte) bool {
	var y, u, v, t, x edLanes
	y[0], y[1] = *a, *b
	signs := [2]byte{a[31] >> 7, b[31] >> 7}
	var one fp.Elt
	fp.SetOne(&one)
	for i := range y {
		y[i][31] &= 0x7f
		fp.Sqr(&u[i], &y[i])
		fp.Mul(&v[i], &u[i], &edD)
		fp.Sub(&u[i], &u[i], &one)
		fp.Add(&v[i], &v[i], &one)
	}
	// x = u·v³·(u·v⁷)^((p−5)/8), or that times the root of −1
	t.square(&v, 1)
	t.multiply(&t, &v) // v³
	x.multiply(&u, &t)
	t.square(&t, 1)
	t.multiply(&t, &v) // v⁷
	t.multiply(&t, &u)
	t.power(&t)
	x.multiply(&x, &t)
	t.square(&x, 1)
	t.multiply(&t, &v)
	for i := range x {
		var difference, sum fp.Elt
		fp.Sub(&difference, &t[i], &u[i])
		if !fp.IsZero(&difference) {
			if fp.Add(&sum, &t[i], &u[i]); !fp.IsZero(&sum) {
				return false
			}
			fp.Mul(&x[i], &x[i], &edRootOfMinus1)
		}
		edSetSign(&x[i], signs[i])
		points[i] = edAffinePoint{x[i], y[i]}
	}
	return true
}

// edAffinePoint is a point in affine coordinates.
type edAffinePoint struct{ x, y fp.Elt }

// extended returns the point in extended coordinates.
func (a *edAffinePoint) extended() (p edPoint) {
	p.x, p.y = a.x, a.y
	fp.SetOne(&p.z)
	fp.Mul(&p.t, &a.x, &a.y)
	return p
}

// ready sets q to the point, prepared for additions.
func (a *edAffinePoint) ready(q *edAffine) {
	fp.Add(&q.sum, &a.y, &a.x)
	fp.Sub(&q.diff, &a.y, &a.x)
	fp.Mul(&q.t2d, &a.x, &a.y)
	fp.Mul(&q.t2d, &q.t2d, &edD2)
}

// smallOrderY are the y coordinates of the eight points of small order.
var smallOrderY = [...]fp.Elt{
	{},
	{1},
	near25519(0xec), // −1
	{
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
}

// smallOrder reports whether the order of the point divides 8.
func (a *edAffinePoint) smallOrder() bool {
	y := a.y
	fp.Modp(&y)
	for i := range smallOrderY {
		if y == smallOrderY[i] {
			return true
		}
	}
	return false
}

// identity sets p to the neutral point.
func (p *edPoint) identity() {
	*p = edPoint{}
	fp.SetOne(&p.y)
	fp.SetOne(&p.z)
}

// double doubles p. If t is false, p.t is not computed: the next operation must be a doubling, or there must be none.
func (p *edPoint) double(t bool) {
	var a, b, c, e fp.Elt
	fp.Sqr(&a, &p.x)
	fp.Sqr(&b, &p.y)
	fp.Sqr(&c, &p.z)
	fp.Add(&c, &c, &c)
	fp.Add(&e, &p.x, &p.y)
	fp.Sqr(&e, &e)
	fp.AddSub(&b, &a)  // x²+y², y²−x²
	fp.Sub(&e, &e, &b) // 2xy
	fp.Sub(&c, &c, &a) // 2z²−(y²−x²)
	fp.Mul(&p.x, &e, &c)
	fp.Mul(&p.y, &a, &b)
	fp.Mul(&p.z, &c, &a)
	if t {
		fp.Mul(&p.t, &e, &b)
	}
}

// finishAdd finishes an addition: a and b are the products of the differences and of the sums, c is the product of
// the t coordinates, d that of the z coordinates.
func (p *edPoint) finishAdd(a, b, c, d *fp.Elt, t bool) {
	fp.AddSub(b, a) // b+a, b−a
	fp.AddSub(d, c) // d+c, d−c
	fp.Mul(&p.x, a, c)
	fp.Mul(&p.y, d, b)
	fp.Mul(&p.z, c, d)
	if t {
		fp.Mul(&p.t, a, b)
	}
}

// add adds q, or subtracts it if minus is set. For t see double.
func (p *edPoint) add(q *edCached, minus, t bool) {
	var a, b, c, d fp.Elt
	fp.Sub(&a, &p.y, &p.x)
	fp.Add(&b, &p.y, &p.x)
	fp.Mul(&c, &p.t, &q.t2d)
	fp.Mul(&d, &p.z, &q.z2)
	if minus {
		fp.Mul(&a, &a, &q.sum)
		fp.Mul(&b, &b, &q.diff)
		fp.Neg(&c, &c)
	} else {
		fp.Mul(&a, &a, &q.diff)
		fp.Mul(&b, &b, &q.sum)
	}
	p.finishAdd(&a, &b, &c, &d, t)
}

// addAffine is add for a point with z = 1.
func (p *edPoint) addAffine(q *edAffine, minus, t bool) {
	var a, b, c, d fp.Elt
	fp.Sub(&a, &p.y, &p.x)
	fp.Add(&b, &p.y, &p.x)
	fp.Mul(&c, &p.t, &q.t2d)
	fp.Add(&d, &p.z, &p.z)
	if minus {
		fp.Mul(&a, &a, &q.sum)
		fp.Mul(&b, &b, &q.diff)
		fp.Neg(&c, &c)
	} else {
		fp.Mul(&a, &a, &q.diff)
		fp.Mul(&b, &b, &q.sum)
	}
	p.finishAdd(&a, &b, &c, &d, t)
}

// setAffine sets p to q, or to its negative.
func (p *edPoint) setAffine(q *edAffine, minus bool) {
	var x, y fp.Elt // 2x and 2y
	fp.Sub(&x, &q.sum, &q.diff)
	fp.Add(&y, &q.sum, &q.diff)
	if minus {
		fp.Neg(&x, &x)
	}
	fp.Mul(&p.t, &x, &y)
	fp.Add(&p.x, &x, &x)
	fp.Add(&p.y, &y, &y)
	p.z = fp.Elt{4}
}

// ready sets q to p, prepared for additions.
func (p *edPoint) ready(q *edCached) {
	fp.Add(&q.sum, &p.y, &p.x)
	fp.Sub(&q.diff, &p.y, &p.x)
	fp.Mul(&q.t2d, &p.t, &edD2)
	fp.Add(&q.z2, &p.z, &p.z)
}

// encode returns the encoding of RFC 8032 §5.1.2.
func (p *edPoint) encode() (b [32]byte) {
	var inverse fp.Elt
	fp.Inv(&inverse, &p.z)
	return p.encodeBy(&inverse)
}

// encodeBy is encode for a caller that knows the inverse of z.
func (p *edPoint) encodeBy(inverse *fp.Elt) (b [32]byte) {
	var x, y fp.Elt
	fp.Mul(&x, &p.x, inverse)
	fp.Mul(&y, &p.y, inverse)
	fp.Modp(&x)
	fp.Modp(&y)
	b = y
	b[31] |= x[0] << 7
	return b
}

// smallOrder reports whether 8·p is the identity. It changes p.
func (p *edPoint) smallOrder() bool {
	for range 3 {
		p.double(false)
	}
	fp.Sub(&p.y, &p.y, &p.z)
	return fp.IsZero(&p.x) && fp.IsZero(&p.y)
}

// edOddMultiples sets table to the multiples 1, 3, 5 … of p, prepared for additions.
func edOddMultiples(table []edCached, p *edPoint) {
	twice := *p
	twice.double(true)
	var step edCached
	twice.ready(&step)
	sum := *p
	for i := range table {
		if i > 0 {
			sum.add(&step, false, true)
		}
		sum.ready(&table[i])
	}
}

// edInverses inverts the z of many points with one common inversion. No z may be zero.
func edInverses(points []edPoint) []fp.Elt {
	out := make([]fp.Elt, len(points)+1) // at first the products of all z before
	fp.SetOne(&out[0])
	for i := range points {
		fp.Mul(&out[i+1], &out[i], &points[i].z)
	}
	var inverse fp.Elt
	fp.Inv(&inverse, &out[len(points)])
	for i := len(points) - 1; i >= 0; i-- {
		fp.Mul(&out[i], &inverse, &out[i])
		fp.Mul(&inverse, &inverse, &points[i].z)
	}
	return out[:len(points)]
}

// edToAffine prepares many points for additions.
func edToAffine(out []edAffine, points []edPoint) {
	for i, inverse := range edInverses(points) {
		var a edAffinePoint
		fp.Mul(&a.x, &points[i].x, &inverse)
		fp.Mul(&a.y, &points[i].y, &inverse)
		a.ready(&out[i])
	}
}

// edEncodeAll encodes many points.
func edEncodeAll(points []edPoint) [][32]byte {
	out := make([][32]byte, len(points))
	for i, inverse := range edInverses(points) {
		out[i] = points[i].encodeBy(&inverse)
	}
	return out
}

// edDigits are the digits of a scalar, least significant first: most digits are zero, the others are odd.
type edDigits [256]int8

// sparseDigits writes a little-endian scalar below 2²⁵³ in non-adjacent form: of width consecutive digits at most one
// is not zero, and its absolute value is below 2^(width−1).
func sparseDigits(out *edDigits, le []byte, width int) {
	var words [5]uint64
	for k := range 4 {
		words[k] = binary.LittleEndian.Uint64(le[8*k:])
	}
	full := 1 << width
	carry := 0
	for at := 0; at < len(out); {
		word, shift := at/64, at%64
		bits := words[word]>>shift | words[word+1]<<1<<(63-shift)
		digit := carry + int(bits)&(full-1)
		if digit&1 == 0 { // a carry stays
			at++
			continue
		}
		carry = 0
		if digit > full/2 {
			carry = 1
			digit -= full
		}
		out[at] = int8(digit)
		at += width
	}
}
